import threading

import pytest

from nanwatch.demo.run import run_demo, wait_for_agent
from nanwatch.demo.workspace import Workspace


def test_the_agent_has_ended_when_its_ledger_is_there_and_its_lock_is_gone(tmp_path):
    assert not wait_for_agent(tmp_path, 0.05)
    (tmp_path / "agent.lock").touch()
    (tmp_path / "ledger.json").touch()
    assert not wait_for_agent(tmp_path, 0.05)
    timer = threading.Timer(0.05, (tmp_path / "agent.lock").unlink)
    timer.start()
    assert wait_for_agent(tmp_path, 10)
    timer.join()


@pytest.mark.parametrize(
    ("script", "problems"),
    [
        ("raise SystemExit(3)", ["ended with exit code 3", "0 runs' folders instead of one"]),
        ("print('no nanwatch here')", ["0 runs' folders instead of one"]),
        (
            "import os\nos.makedirs('nanwatch_runs/r1')\nopen('nanwatch_runs/r1/ledger.json', 'w')",
            ["holds 0 bundles instead of one"],
        ),
    ],
)
def test_what_a_training_does_not_leave_behind_is_a_problem(tmp_path, script, problems):
    workspace = Workspace(tmp_path)
    workspace.script.write_text(script)
    lines = []
    result = run_demo(workspace, None, lines.append)
    assert len(result.problems) == len(problems)
    for expected, told in zip(problems, result.problems, strict=True):
        assert expected in told
    assert result.incident is None
    assert lines[0].startswith("training train_digits.py")

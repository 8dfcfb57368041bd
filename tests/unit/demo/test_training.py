import os

import pytest

from nanwatch.demo import training
from nanwatch.demo.training import train
from nanwatch.demo.workspace import Workspace


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path)


def test_lines_come_through_and_the_exit_code_is_returned(workspace):
    workspace.script.write_text("import sys\nprint('one')\nprint('two', file=sys.stderr)\nsys.exit(4)\n")
    lines = []
    assert train(workspace, {}, lines.append) == 4
    assert lines == ["one", "two"]


def test_only_the_given_variables_of_ours_reach_the_script(workspace, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    monkeypatch.setenv("NANWATCH_DIR", "/elsewhere")
    workspace.script.write_text(
        "import os\nprint(sorted(k for k in os.environ if k.startswith(('MLFLOW_', 'NANWATCH_'))), os.getcwd())"
    )
    lines = []
    train(workspace, {"NANWATCH_WEBHOOK_URL": "http://x"}, lines.append)
    assert lines == [f"['NANWATCH_WEBHOOK_URL'] {workspace.folder}"]


def test_a_script_that_does_not_end_is_killed(workspace, monkeypatch):
    monkeypatch.setattr(training, "TIMEOUT_S", 0.5)
    workspace.script.write_text("import time\ntime.sleep(100)")
    assert train(workspace, {}, lambda line: None) == -9


def test_an_exception_while_reading_leaves_no_process_behind(workspace):
    workspace.script.write_text("import os, time\nprint(os.getpid())\ntime.sleep(100)")
    pids = []

    def stop(line):
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(workspace, {}, stop)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)

"""`nanwatch sync` on a run whose agent was killed: MLflow's embedded store gets what was left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

from nanwatch.bundle.reader import Bundle

PROGRAM = """
    import os, signal, torch, nanwatch
    from torch import nn

    net = nn.Linear(3, 1)
    watch = nanwatch.attach(net)
    os.kill(watch._run.agent.pid, signal.SIGKILL)
    watch._run.agent.wait()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    for i in range(30):
        opt.zero_grad()
        net(torch.full((4, 3), float("nan") if i == 20 else 1.0)).mean().backward()
        opt.step()
"""


def run(*args, cwd):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "NANWATCH_"))} | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *args], cwd=cwd, env=env, capture_output=True, text=True, timeout=110)


def test_what_a_killed_agent_left_is_shipped_by_hand(tmp_path):
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    done = run("program.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "nanwatch_runs").iterdir()
    assert not list(folder.glob("incidents/*/manifest.json"))

    synced = run("-m", "nanwatch", "sync", "--json", cwd=tmp_path)
    assert synced.returncode == 0, synced.stderr + synced.stdout
    assert json.loads(synced.stdout)["runs"] == [{"run": "nanwatch_runs/" + folder.name, "exit_code": 0, "left": {}}]
    (incident,) = (folder / "incidents").iterdir()
    assert Bundle.open(incident).is_complete
    run_id = json.loads((folder / "run.json").read_text())["mlflow"]["run_id"]
    (artifacts,) = (tmp_path / "mlruns").glob(f"*/{run_id}/artifacts/nanwatch")
    assert (artifacts / "incidents" / incident.name / "report.html").is_file()
    assert (artifacts / "timeline.parquet").is_file()

    again = run("-m", "nanwatch", "sync", str(Path("nanwatch_runs") / folder.name), cwd=tmp_path)
    assert again.returncode == 0
    assert "everything is shipped" in again.stdout


def test_a_folder_without_runs_is_told(tmp_path):
    done = run("-m", "nanwatch", "sync", str(tmp_path), cwd=tmp_path)
    assert done.returncode == 2
    assert "no run in" in done.stderr

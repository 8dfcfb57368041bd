"""Programs as users write them, run as processes of their own, and what they leave behind."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nanwatch.demo.run import wait_for_agent

AGENT_TIMEOUT_S = 60.0

# In a process of its own: importing mlflow costs seconds, and its warnings are not ours.
READ_STORE = """
import json, mlflow
client = mlflow.MlflowClient()
runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
def told(run):
    names = [name for name in run.data.metrics if name.startswith("nanwatch/")]
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    return {
        "id": run.info.run_id,
        "status": run.info.status,
        "tags": run.data.tags,
        "metrics": {name: [[m.step, m.value] for m in history] for name, history in histories.items()},
    }
print(json.dumps([told(run) for run in runs]))
"""


class Program:
    """A user's program in a folder of its own, in an environment without anything of nanwatch or MLflow."""

    def __init__(self, folder: Path, code: str, **variables: str) -> None:
        self.folder = folder
        self.script = folder / "train.py"
        self.script.write_text(textwrap.dedent(code))
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NANWATCH_", "MLFLOW_"))}
        self.environment = {**inherited, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", **variables}

    def start(self, *words: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-u", str(self.script), *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, timeout_s: float = 100) -> str:
        """Run to the end, also of the agent; returns stdout."""
        with self.start(*words) as process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            finally:
                process.kill()
        assert process.returncode == 0, err
        self.wait_for_agents()
        return out

    def runs(self) -> list[Path]:
        return sorted(p for p in (self.folder / "nanwatch_runs").glob("*") if p.is_dir())

    def wait_for_agents(self) -> None:
        for run in self.runs():
            log = run / "agent.log"
            assert wait_for_agent(run, AGENT_TIMEOUT_S), log.read_text() if log.exists() else "the agent never started"

    def stored_runs(self) -> list[dict]:
        done = subprocess.run(
            [sys.executable, "-c", READ_STORE],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def program(tmp_path):
    def make(code: str, **variables: str) -> Program:
        return Program(tmp_path, code, **variables)

    return make

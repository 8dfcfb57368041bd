"""A new database file while the user's process reaches for the same one: nobody's call fails, and one run is ours."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from mlflow import MlflowClient

from nanwatch.errors import SinkError
from nanwatch.sinks.mlflow_store import ready_store

USER = """
import sys, mlflow
mlflow.get_tracking_uri()
print("ready", flush=True)
sys.stdin.readline()
with mlflow.start_run(run_name="users"):
    mlflow.log_metric("accuracy", 0.5)
"""


@pytest.fixture
def user(tmp_path):
    """A process that has MLflow loaded and starts its first run when it reads a line."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "NANWATCH_"))}
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    process = subprocess.Popen(
        ["timeout", "120", sys.executable, "-c", USER], cwd=tmp_path, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


def ship_until_done(training_run):
    """As the agent does: again after every failure that is not permanent."""
    for _ in range(600):
        try:
            return training_run.sink.ship(time.time(), final=True)
        except SinkError as e:
            if e.permanent:
                raise
            time.sleep(0.1)
    raise AssertionError("the store never became ready")


@pytest.mark.parametrize(("agent_waits_s", "user_waits_s"), [(0, 0), (0, 0.7), (0, 2), (0.5, 0), (2, 0)])
def test_both_reach_for_the_store_at_once(user, training, tmp_path, fresh_database, agent_waits_s, user_waits_s):
    t = training()
    t.steps(0, 50)
    # when the user's first call and the agent's first shipping meet, in one order or the other
    with ThreadPoolExecutor() as pool:
        shipped = pool.submit(lambda: (time.sleep(agent_waits_s), ship_until_done(t)))
        time.sleep(user_waits_s)
        _, stderr = user.communicate("\n", timeout=100)
        assert shipped.result()
    # then the user's call has not failed, each has its run, and nothing else lies about
    assert user.returncode == 0, stderr
    names = sorted(run.info.run_name for run in MlflowClient(fresh_database).search_runs(["0"]))
    assert names == sorted([t.run.name, "users"])
    assert {p.name for p in tmp_path.iterdir()} - {"mlruns"} == {"mlflow.db", "nanwatch_runs"}


def test_a_file_that_somebody_is_building_is_waited_for(tmp_path, fresh_database):
    sqlite3.connect(tmp_path / "mlflow.db").execute("CREATE TABLE runs (x)").connection.close()
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(SinkError, match="another process") as refused:
        ready_store(fresh_database, time.time())
    assert (refused.value.permanent, refused.value.retry_after_s) == (False, 1.0)
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_a_file_of_another_version_is_left_as_it_is(tmp_path, fresh_database):
    sqlite3.connect(tmp_path / "mlflow.db").execute("CREATE TABLE runs (x)").connection.close()
    before = (tmp_path / "mlflow.db").read_bytes()
    with pytest.raises(SinkError, match="mlflow db upgrade sqlite:///"):
        ready_store(fresh_database, time.time() + 1_000)
    assert (tmp_path / "mlflow.db").read_bytes() == before


def test_an_agent_that_is_killed_while_building_leaves_no_half_made_store(tmp_path, fresh_database):
    code = f"from nanwatch.sinks.mlflow_store import ready_store; ready_store({fresh_database!r}, 0)"
    agent = subprocess.Popen(["timeout", "60", sys.executable, "-c", code], start_new_session=True)
    while not list(tmp_path.glob(".mlflow.db-*/mlflow.db")):
        assert agent.poll() is None
        time.sleep(0.01)
    os.killpg(agent.pid, signal.SIGKILL)
    agent.wait()
    assert not (tmp_path / "mlflow.db").exists()
    ready_store(fresh_database, time.time())
    assert MlflowClient(fresh_database).get_experiment("0").name == "Default"


def test_a_folder_for_the_store_is_made(tmp_path):
    ready_store(f"sqlite:///{tmp_path}/new/folder/my%20runs.db", time.time())
    assert len(list((tmp_path / "new/folder").iterdir())) == 1


def test_a_place_that_cannot_hold_a_store_is_named():
    with pytest.raises(SinkError, match=r"/proc/nowhere/mlflow\.db cannot be made") as refused:
        ready_store("sqlite:////proc/nowhere/mlflow.db", time.time())
    assert not refused.value.permanent


@pytest.mark.parametrize("uri", ["http://host", "postgresql://host/db", "sqlite://", "sqlite:///:memory:"])
def test_other_stores_are_not_touched(tmp_path, uri):
    ready_store(uri, time.time())
    assert list(tmp_path.iterdir()) == []

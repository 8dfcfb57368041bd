"""A real tracking server, the embedded store, and a run that reports to the sink without a trainer."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest

from nanwatch.bundle.manifest import write_manifest
from nanwatch.records import (
    Alert,
    Cause,
    Incident,
    LogRecord,
    NamesRecord,
    Origin,
    Replay,
    RunRecord,
    Seen,
    StepRecord,
    VitalsRecord,
)
from nanwatch.sinks.mlflow import MlflowSink
from nanwatch.sinks.mlflow_store import ready_store
from nanwatch.sinks.sink import FinishedIncident

NAN = float("nan")


def pytest_collection_modifyitems(items):
    for item in items:
        if "tests/integration/mlflow/" in item.nodeid:
            # MLflow's own use of SQLAlchemy; that is not ours to fail on.
            item.add_marker(pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"))
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    """No store but the one that a test asks for; the working folder decides on MLflow's default."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "NANWATCH_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`mlflow server` with one worker; its URL."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "NANWATCH_"))}
    environment = {**inherited, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [
        "timeout", "280", sys.executable, "-m", "mlflow", "server", "--workers", "1", "--host", "127.0.0.1",
        "--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with open(folder / "log", "wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_answers(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0", process, folder / "log")
        yield url
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def wait_until_answers(url, process, output):
    for _ in range(1200):
        if process.poll() is not None:
            break
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
    pytest.fail(f"mlflow server did not start:\n{output.read_text()[-3000:]}")


@pytest.fixture
def fresh_database(tmp_path):
    """URI of an embedded store that does not exist yet."""
    return f"sqlite:///{tmp_path}/mlflow.db"


@pytest.fixture(scope="session")
def built_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    ready_store(f"sqlite:///{path}", time.time())
    return path


@pytest.fixture
def database(built_database, fresh_database, tmp_path):
    """URI of an embedded store without runs. A copy: MLflow takes seconds to build one."""
    shutil.copyfile(built_database, tmp_path / "mlflow.db")
    return fresh_database


@pytest.fixture
def training(tmp_path):
    return lambda name="20261123T190000-a1b2c3", **settings: Training(tmp_path, name, settings)


class Training:
    """A run whose records are given to a sink, at a time of its own that begins at START."""

    START = 1_795_000_000.0

    def __init__(self, folder, name, settings):
        self.run = RunRecord(
            name, 0, 1, os.getpid(), "gpu-1", self.START, ({"name": "model", "type": "Net"},), {"nanwatch": "0.1.0"},
            "/home/me/train.py", settings,
        )  # fmt: skip
        self.run_dir = folder / "nanwatch_runs" / name
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.sink = self.new_sink()

    def new_sink(self):
        """What an agent makes that starts now, perhaps after another one has died."""
        sink = MlflowSink(self.run, self.run_dir, clock=lambda: self.START + 100)
        sink.observe(self.run)
        sink.observe(NamesRecord(1, ("0.w", "0.b", "2.w", "2.b"), (64, 8, 32, 4), ("0", "0", "2", "2")))
        return sink

    def steps(self, first, last, *, bad_from=None):
        for n in range(first, last):
            bad = bad_from is not None and n >= bad_from
            stats = np.ones((4, 8), np.float32)
            stats[:, 1], stats[:, 5:] = -1, 0
            stats[1, 5] = 3 if bad else 0
            self.sink.observe(
                StepRecord(
                    rank=0, step=n, step_total=n, micro_steps=1, time_unix_s=self.START + n / 100, monotonic_s=n / 100,
                    step_time_s=0.01, loss=NAN if bad else 1 / (n + 1), loss_measured=True, lr=0.1, loss_scale=NAN,
                    grad_norm_clipped=NAN, overhead=0.002, bad_loss=bad, bad_grads=bad, bad_params=False,
                    scaler_skipped=False, update_skipped=False, names_id=1, stats_KS=stats,
                )
            )  # fmt: skip

    def log(self, step, **values):
        self.sink.observe(LogRecord(0, step, step, self.START + step / 100, values))

    def vitals(self, second):
        self.sink.observe(VitalsRecord(self.START + second, {"trainer_rss_mb": 512.0}))

    def incident(self, identity="inc-1", step=40, **local):
        """Write a bundle and hand it over; `local` names members that the manifest keeps here."""
        incident = Incident(
            identity, "nonfinite", "2026-11-23T19:01:02.345Z", 0, 1, step, step, 0, "record",
            Seen("loss", "nan", ("0.b",), 1),
            Origin("forward", "aten::log", value="inf", module="head", file="/home/train.py", line=41, code="log(p)"),
            (), Cause("log_of_zero", "certain", ("zeros went into log",), ("clamp the input",)),
            Replay("reproduced", 2, True, 0.4),
        )  # fmt: skip
        folder = self.run_dir / "incidents" / identity
        (folder / "batch").mkdir(parents=True)
        (folder / "incident.json").write_text(json.dumps(incident.to_json()))
        (folder / "report.html").write_text("<h1>report</h1>")
        (folder / "batch/tree.json").write_text(json.dumps({"captured": "full"}))
        (folder / "batch/tensors.safetensors").write_bytes(bytes(1000))
        write_manifest(folder, identity, local)
        self.sink.incident(FinishedIncident(incident, folder))
        return folder

    def alert(self, state="firing"):
        self.sink.alert(Alert("spike", "spike", state, "warning", "a1", "f1", "loss", 20, 0, "loss rose", value=3.0))

    def ship(self, after_s=11.0, *, final=False):
        for _ in range(100):
            if self.sink.ship(self.START + after_s, final=final):
                return
        pytest.fail("the sink never had everything sent")

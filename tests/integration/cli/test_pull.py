"""`nanwatch pull` against a real MLflow store, into which a bundle was uploaded with MLflow's own client."""

import json
import os
import subprocess
import sys

import pytest

from nanwatch.bundle.manifest import verify, write_manifest
from nanwatch.bundle.writer import EvidenceWriter
from nanwatch.records import Cause, Incident, Replay, Seen

pytestmark = pytest.mark.timeout(300)


def make_bundle(folder, name):
    facts = {
        "kind": "nonfinite",
        "time": "2026-11-23T19:01:02Z",
        "rank": 0,
        "world_size": 1,
        "step": 1,
        "step_total": 1,
    }
    replay = Replay("reproduced", 1, True, 0.1)
    incident = Incident(
        id=name, **facts, micro_step=0, action="record", seen=Seen("loss", "nan"), origin=None, path=(),
        cause=Cause("unknown", "possible"), replay=replay,
    )  # fmt: skip
    writer = EvidenceWriter(folder, name)
    writer.json("incident.json", incident.to_json())
    writer.text("traceback.txt", "the stack")
    bundle = writer.commit()
    write_manifest(bundle, name)
    return bundle


UPLOAD = """
import sys, mlflow
client = mlflow.MlflowClient()
run = client.create_run("0").info.run_id
for folder in sys.argv[1:]:
    client.log_artifacts(run, folder, "nanwatch/incidents/" + folder.rsplit("/", 1)[-1])
print(run)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """One store for all tests of this file: MLflow takes seconds to build it."""
    folder = tmp_path_factory.mktemp("store")
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NANWATCH_", "MLFLOW_"))}
    return {**inherited, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}


@pytest.fixture(scope="module")
def upload(environment, tmp_path_factory):
    """Upload bundles to a new run with MLflow's own client; returns the run's id."""
    cwd = tmp_path_factory.mktemp("uploader")

    def upload(*bundles):
        command = [sys.executable, "-c", UPLOAD, *map(str, bundles)]
        done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    return upload


@pytest.fixture
def pull(environment, tmp_path):
    def pull(*words):
        command = [sys.executable, "-m", "nanwatch", "pull", *words]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return pull


def test_a_bundle_comes_back_whole_and_a_second_pull_leaves_it_alone(upload, pull, tmp_path):
    original = make_bundle(tmp_path / "here", "inc-1")
    run = upload(original)

    done = pull(run)
    assert done.returncode == 0, done.stderr
    got = tmp_path / "nanwatch-pulled" / run / "incidents" / "inc-1"
    assert verify(got) == []
    assert (got / "incident.json").read_bytes() == (original / "incident.json").read_bytes()
    assert got.stat().st_mode & 0o77 == 0
    assert (got / "incident.json").stat().st_mode & 0o77 == 0

    again = pull(run, "--json")
    assert again.returncode == 0
    assert [one["state"] for one in json.loads(again.stdout)] == ["was here"]

    shown = subprocess.run(
        [sys.executable, "-m", "nanwatch", "show", str(got.parent.parent)], capture_output=True, text=True, timeout=60
    )
    assert "The loss became NaN at step 1" in shown.stdout


def test_broken_and_half_uploaded_bundles_are_findings_and_are_not_kept(upload, pull, tmp_path):
    altered = make_bundle(tmp_path / "here", "inc-altered")
    (altered / "traceback.txt").write_text("the stAck")
    half = make_bundle(tmp_path / "here", "inc-half")
    (half / "manifest.json").unlink()
    good = make_bundle(tmp_path / "here", "inc-good")

    done = pull(upload(altered, half, good), "--to", "out", "--json")
    assert done.returncode == 1
    states = {one["id"]: one for one in json.loads(done.stdout)}
    assert {name: one["state"] for name, one in states.items()} == {
        "inc-altered": "broken",
        "inc-half": "unfinished",
        "inc-good": "pulled",
    }
    assert "traceback.txt was altered" in states["inc-altered"]["problems"][0]
    assert [path.name for path in (tmp_path / "out" / "incidents").iterdir()] == ["inc-good"]


def test_a_run_without_incidents_is_fine(upload, pull):
    done = pull(upload())
    assert done.returncode == 0
    assert "no incidents" in done.stdout


@pytest.mark.parametrize("run", ["0" * 32, "../../etc"])
def test_a_run_that_is_not_there_is_exit_code_3(upload, pull, run):
    upload()
    done = pull(run)
    assert done.returncode == 3
    assert "nanwatch:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_nobody_runs_is_exit_code_3(pull):
    done = pull("0" * 32, "--tracking-uri", "http://127.0.0.1:9")
    assert done.returncode == 3
    assert "127.0.0.1:9" in done.stderr

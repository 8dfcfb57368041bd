"""Real bundles and runs on disk, and the command as the terminal calls it."""

import json

import pytest
from typer.testing import CliRunner

from nanwatch.bundle.manifest import write_manifest
from nanwatch.bundle.writer import EvidenceWriter
from nanwatch.cli.root import app
from nanwatch.records import Cause, Experiment, Frame, Incident, Origin, PathNode, Replay, Seen, TensorSummary


def make_incident(name="i1", **changed):
    facts = {
        "id": name,
        "kind": "nonfinite",
        "time": "2026-11-23T19:01:02.345Z",
        "rank": 0,
        "world_size": 1,
        "step": 12,
        "step_total": 12,
        "micro_step": 0,
        "action": "record",
        "seen": Seen("loss", "nan", ("loss",), 1),
        "origin": Origin(
            phase="forward",
            op="aten::_softmax",
            module="blocks.0.attention",
            module_type="Attention",
            file="/home/me/train.py",
            line=41,
            function="forward",
            code="weights = scores[None].softmax(-1)",
            stack=(Frame("/home/me/train.py", 41, "forward"),),
            inputs=(TensorSummary("self", (8, 16), "float32", 0.0, 0.7, 16),),
            batch_rows=(3,),
        ),
        "path": tuple(PathNode(f"aten::op{i}", None, None, None, "nan") for i in range(12)),
        "cause": Cause("masked_softmax", "certain", ("row 3 is masked everywhere",), ("keep one key per row",)),
        "replay": Replay("reproduced", 2, True, 0.4, experiments=(Experiment("float64", False, "no overflow"),)),
    }
    return Incident(**{**facts, **changed})


def make_bundle(incidents, incident, *, finished=True):
    writer = EvidenceWriter(incidents, incident.id)
    writer.json("incident.json", incident.to_json())
    writer.text("traceback.txt", "the stack")
    folder = writer.commit()
    if finished:
        write_manifest(folder, incident.id)
    return folder


def make_run(runs, name="20261123T190102Z-abc123", *, incidents=(), alerts=(), ledger=None):
    folder = runs / name
    folder.mkdir(parents=True)
    model = {"name": "model", "type": "Net", "parameters": 1234, "tensors": 4}
    (folder / "run.json").write_text(json.dumps({"name": name, "models": [model]}))
    (folder / "alerts.jsonl").write_text("".join(json.dumps(alert) + "\n" for alert in alerts))
    if ledger is not None:
        (folder / "ledger.json").write_text(json.dumps(ledger))
    for incident in incidents:
        make_bundle(folder / "incidents", incident)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty working directory and an environment in which nothing of nanwatch or MLflow is set."""
    import os

    for name in list(os.environ):
        if name.startswith(("NANWATCH_", "MLFLOW_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nanwatch(home):
    runner = CliRunner()
    return lambda *words: runner.invoke(app, [str(word) for word in words])


@pytest.fixture
def make():
    """The makers above, for tests that need more than one of something."""

    class Make:
        incident = staticmethod(make_incident)
        bundle = staticmethod(make_bundle)
        run = staticmethod(make_run)

    return Make

"""A demo that checks itself must see every kind of failure."""

import dataclasses
from pathlib import Path

import pytest

from nanwatch.bundle.manifest import write_manifest
from nanwatch.bundle.members import FINISHED_MEMBERS, TRAINER_MEMBERS
from nanwatch.bundle.writer import EvidenceWriter
from nanwatch.demo.checks import check_bundle, check_deliveries
from nanwatch.demo.receiver import Delivery
from nanwatch.records import Cause, Incident, Origin, Replay, Seen

SCRIPT = Path("/demo/train_digits.py")
LINE = 25


def incident(line=LINE, file=str(SCRIPT)):
    return Incident(
        id="i1", kind="nonfinite", time="2026-11-23T19:01:02Z", rank=0, world_size=1, step=1, step_total=1,
        micro_step=0, action="record", seen=Seen("loss", "nan"), path=(),
        origin=Origin("forward", file=file, line=line), cause=Cause("masked_softmax", "certain"),
        replay=Replay("reproduced", 1, True, 0.1),
    )  # fmt: skip


def bundle(folder, what=None, left_out=()):
    writer = EvidenceWriter(folder, "i1")
    writer.json("incident.json", (what or incident()).to_json())
    for name in set(TRAINER_MEMBERS) - {"incident.json", "state/optimizer.safetensors", *left_out}:
        path = writer.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    made = writer.commit()
    for name in set(FINISHED_MEMBERS) - set(left_out):
        (made / name).write_text("x")
    write_manifest(made, "i1")
    return made


def test_a_whole_bundle_that_names_the_bug_has_no_problem(tmp_path):
    assert check_bundle(bundle(tmp_path), SCRIPT, LINE) == (incident(), [])


def test_a_missing_member_is_named(tmp_path):
    _, problems = check_bundle(bundle(tmp_path, left_out=("report.html", "batch/tensors.safetensors")), SCRIPT, LINE)
    assert problems == ["the bundle lacks batch/tensors.safetensors, report.html"]


@pytest.mark.parametrize("other", [{"line": LINE + 1}, {"file": "/elsewhere/train_digits.py"}])
def test_another_place_than_the_bug_is_a_problem(tmp_path, other):
    _, (problem,) = check_bundle(bundle(tmp_path, incident(**other)), SCRIPT, LINE)
    assert f"the bug is at {SCRIPT}:{LINE}" in problem


def test_no_origin_is_a_problem(tmp_path):
    what = dataclasses.replace(incident(), origin=None)
    assert check_bundle(bundle(tmp_path, what), SCRIPT, LINE)[1] == ["the incident has no origin"]


def test_an_altered_bundle_is_a_problem(tmp_path):
    made = bundle(tmp_path)
    (made / "report.html").write_text("y")
    found, (problem,) = check_bundle(made, SCRIPT, LINE)
    assert found is None
    assert "report.html was altered" in problem


def test_an_unfinished_bundle_is_a_problem(tmp_path):
    made = bundle(tmp_path)
    (made / "manifest.json").unlink()
    assert "no manifest" in check_bundle(made, SCRIPT, LINE)[1][0]


def created(name="m1", *, signed=True, text="NaN at train_digits.py:25", kind="nanwatch.incident.created"):
    return Delivery(name, signed, {"type": kind, "data": {"title": text}})


@pytest.mark.parametrize(
    ("deliveries", "problem"),
    [
        ([created()], None),
        ([created(), created("m2", kind="nanwatch.alert.firing", text="x")], None),
        ([created(), created()], None),  # the same notification again: a retry whose answer was lost
        ([], "the receiver got nothing"),
        ([created(), created("m2")], "expected one"),
        ([created(kind="nanwatch.alert.firing")], "expected one"),
        ([created(signed=False)], "not signed"),
        ([created(text="NaN somewhere")], "does not name train_digits.py:25"),
        ([created(text="NaN at train_digits.py:251")], "does not name"),
    ],
)
def test_webhooks(deliveries, problem):
    problems = check_deliveries(deliveries, SCRIPT, LINE)
    assert bool(problems) == (problem is not None)
    if problem is not None:
        assert problem in problems[0]

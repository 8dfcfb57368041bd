"""The note: verdict first, the user's own text untouched, within what MLflow keeps."""

import dataclasses

import pytest

from nanwatch.records import Cause, Incident, Origin, Replay, Seen
from nanwatch.sinks.mlflow_note import NoteFacts, merged, section
from nanwatch.sinks.mlflow_state import Target
from nanwatch.sinks.sink import RunEnd

TARGET = Target("http://server", "RID", "7", ours=True)
INCIDENT = Incident(
    "inc-1", "nonfinite", "t", 0, 1, 12, 112, 0, "record", Seen("loss", "nan"),
    Origin("forward", "aten::log", value="inf", module="head", file="/home/me/train.py", line=41, code="torch.log(p)"),
    (), Cause("log_of_zero", "certain", ("zeros went into log",), ("clamp the input",)),
    Replay("reproduced", 1, True, 0.1),
)  # fmt: skip
FACTS = NoteFacts([INCIDENT], {}, 1, 200, 0, None, "/runs/x", "gpu-1", has_plot=True)


def test_the_verdict_comes_first_with_operation_place_and_cause():
    first = section(FACTS, TARGET, None).splitlines()[0]
    for word in ("step 112", "aten::log", "head", "train.py:41", "log of zero", "certain"):
        assert word in first


def test_links_lead_to_the_training_page():
    text = section(FACTS, TARGET, "https://ui/")
    assert "(https://ui/#/experiments/7/runs/RID?workflowType=machine_learning)" in text
    report = "https://ui/#/experiments/7/runs/RID/artifacts/nanwatch/incidents/inc-1/report.html"
    assert f"({report}?workflowType=machine_learning)" in text


def test_the_picture_has_a_relative_address():
    assert "](get-artifact?path=nanwatch%2Fplot.svg&run_uuid=RID)" in section(FACTS, TARGET, None)
    assert "get-artifact" not in section(dataclasses.replace(FACTS, has_plot=False), TARGET, None)


def test_what_stayed_on_the_machine_is_named():
    facts = dataclasses.replace(FACTS, withheld={"inc-1": {"batch/tensors.safetensors": "upload_batch=none"}})
    assert "batch/tensors.safetensors` (upload_batch=none)" in section(facts, TARGET, None)


def test_a_run_without_incident_says_so():
    facts = dataclasses.replace(FACTS, incidents=[], bad_steps=0, alerts=2)
    assert "no non-finite value in 200 steps, 2 alerts" in section(facts, TARGET, None)


def test_how_training_died_is_told():
    facts = dataclasses.replace(FACTS, end=RunEnd("out_of_memory", "the cgroup's counter rose", "FAILED"))
    assert "Training ended: out of memory. the cgroup's counter rose" in section(facts, TARGET, None)


@pytest.mark.parametrize("users", ["", "my notes", "# Title\n\ntext"])
def test_an_update_replaces_only_our_section(users):
    once = merged(users, "first")
    twice = merged(once + "\nwritten below", "second")
    assert "first" not in twice
    assert twice.count("nanwatch begin") == 1
    assert twice.startswith(users)
    assert "written below" in twice
    assert merged(twice, "second") == twice


def test_text_of_the_program_cannot_end_our_section():
    origin = dataclasses.replace(INCIDENT.origin, code="<!-- nanwatch end --> <script>alert(1)</script>")
    text = section(dataclasses.replace(FACTS, incidents=[dataclasses.replace(INCIDENT, origin=origin)]), TARGET, None)
    assert "<" not in text


def test_the_note_stays_below_what_mlflow_keeps():
    many = [dataclasses.replace(INCIDENT, id=f"inc-{i}") for i in range(50)]
    text = section(dataclasses.replace(FACTS, incidents=many), TARGET, "https://ui")
    assert len(text) <= 4_000
    assert len(merged("u" * 5_000, text)) < 8_000
    full = "u" * 7_950
    assert merged(full, text) == full

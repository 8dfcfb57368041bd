"""Tags only get graver, and fit a chip."""

import pytest

from nanwatch.records import Cause, Incident, Origin, Replay, Seen
from nanwatch.sinks.mlflow_tags import CHIP_LENGTH, StatusTags, origin_chip
from nanwatch.sinks.sink import RunEnd


def incident(step=5, label="log_of_zero"):
    return Incident(
        "i", "nonfinite", "t", 0, 1, step, step, 0, "record", Seen("loss", "nan"),
        Origin("forward", "aten::log", module="encoder.layers.3.attention.self"), (), Cause(label, "certain"),
        Replay("reproduced", 1, True, 0.1),
    )  # fmt: skip


def end(reason):
    return RunEnd(reason, "", "FAILED")


def test_the_status_never_becomes_harmless_again():
    tags = StatusTags("1")
    tags.incident(incident())
    tags.raise_to("alerting")
    tags.end(end("finished"))
    assert tags.values["nanwatch.status"] == "incident"


@pytest.mark.parametrize(
    ("reason", "status"),
    [("finished", "ok"), ("detached", "ok"), ("stopped", "stopped"), ("exception", "crashed"), ("killed", "crashed"),
     ("out_of_memory", "crashed"), ("vanished", "crashed")],
)  # fmt: skip
def test_how_training_ended(reason, status):
    tags = StatusTags(None)
    tags.end(end(reason))
    assert tags.values == {"nanwatch.status": status, "nanwatch.end_reason": reason}


def test_the_first_incident_names_step_origin_and_cause():
    tags = StatusTags(None)
    tags.incident(incident(5))
    tags.incident(incident(9, "overflow_exp"))
    assert tags.values["nanwatch.first_incident_step"] == "5"
    assert tags.values["nanwatch.cause"] == "log_of_zero"
    assert all(len(v) <= CHIP_LENGTH for v in tags.values.values())


def test_an_earlier_agent_is_not_contradicted():
    tags = StatusTags("2")
    tags.restore({"nanwatch.status": "incident", "nanwatch.cause": "bad_input", "nanwatch.version": "1"})
    assert tags.values == {"nanwatch.status": "incident", "nanwatch.cause": "bad_input", "nanwatch.version": "2"}


def test_the_origin_fits_a_chip_and_keeps_the_end_of_the_module():
    assert origin_chip(Origin("forward", "aten::log", module="head")) == "log in head"
    long = origin_chip(Origin("forward", "aten::log", module="encoder.layers.3.attention.self"))
    assert len(long) == CHIP_LENGTH
    assert long.endswith("attention.self")
    assert origin_chip(Origin("data")) == "data"
    assert origin_chip(Origin("params", param="w" * 80)) == "w" * CHIP_LENGTH

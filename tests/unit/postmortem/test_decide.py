"""What experiments confirm, add to or take back from a cause."""

from __future__ import annotations

import pytest

from nanwatch.postmortem.decide import decide
from nanwatch.records import Cause, Experiment, Origin

FINE32, BAD32 = Experiment("float32", True, "finite in float32: the range"), Experiment("float32", False, "not")
FINE64, BAD64 = Experiment("float64", True, "finite in float64"), Experiment("float64", False, "not")
ORIGIN = Origin("forward", value="inf")


def decided(label, confidence, *experiments, origin=ORIGIN):
    cause = decide(Cause(label, confidence, ("first",)), experiments, origin)
    assert cause.why[0] == "first"
    return cause.label, cause.confidence, " ".join(cause.why[1:])


def test_an_overflow_that_float32_holds_is_certain():
    assert decided("overflow_low_precision", "likely", FINE32) == (
        "overflow_low_precision",
        "certain",
        "finite in float32: the range",
    )


def test_an_overflow_that_float32_does_not_hold_is_less_sure():
    label, confidence, why = decided("overflow_low_precision", "certain", BAD32, BAD64)
    assert (label, confidence) == ("overflow_low_precision", "likely")
    assert why == "not finite in float32: the 16-bit type is not the only cause"
    assert "(it is in float64)" in decided("overflow_low_precision", "certain", BAD32, FINE64)[2]


@pytest.mark.parametrize("label", ["exploding_gradient", "exploding_activation", "overflow_exp", "lr_too_high"])
def test_what_has_outgrown_its_type(label):
    assert "outgrown the type" in decided(label, "likely", FINE64)[2]
    assert "not finite in float64 either" in decided(label, "likely", BAD64)[2]


def test_a_zero_that_rounding_made():
    assert "the type rounded the value" in decided("division_by_zero", "certain", FINE64)[2]
    assert decided("division_by_zero", "certain", BAD64)[2] == ""
    assert "rounds to zero" in decided("division_by_zero", "certain", FINE32)[2]


def test_an_empty_mean_cannot_be_mended_by_a_type():
    assert decided("empty_reduction", "likely", FINE64)[1] == "possible"


def test_the_unknown_becomes_known():
    assert decided("unknown", "possible", FINE32)[:2] == ("overflow_low_precision", "likely")
    assert decided("unknown", "possible", FINE64)[:2] == ("exploding_activation", "likely")
    backward = Origin("backward", value="inf")
    assert decided("unknown", "possible", FINE64, origin=backward)[0] == "exploding_gradient"
    assert decided("unknown", "possible", FINE64, origin=Origin("forward", value="nan"))[0] == "unknown"
    assert decided("unknown", "possible", BAD64)[:2] == ("unknown", "possible")


def test_rows_and_repetition():
    rows = Experiment("rows", True, "row 3 fails alone; without it the step is finite")
    assert decided("log_of_zero", "certain", rows)[2] == rows.says
    every = Experiment("rows", False, "row 0 fails alone, and so does every other row")
    assert decided("log_of_zero", "certain", every)[2] == ""
    finite = Experiment("same step again", True, "the loss was inf and is 1")
    assert decided("log_of_zero", "certain", finite)[1] == "likely"


def test_bad_data_is_no_matter_of_type():
    assert decided("bad_input", "certain", FINE64, origin=Origin("data"))[2] == ""

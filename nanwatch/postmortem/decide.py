"""The cause again, in the light of the experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from nanwatch.postmortem.experiments import FLOAT32, FLOAT64, ROWS, SAME
from nanwatch.postmortem.remedies import REMEDIES
from nanwatch.records import Cause, Experiment, Origin

Confidence = Literal["certain", "likely", "possible"]
_LOWER: dict[Confidence, Confidence] = {"certain": "likely", "likely": "possible", "possible": "possible"}
_OUTGROWN = {"exploding_activation", "exploding_gradient", "overflow_exp", "lr_too_high"}
_OUTGREW = "finite in float64: nothing is undefined, the values have outgrown the type"
_OF_NO_TYPE = {"empty_reduction", "masked_softmax"}
_ZEROS = {"log_of_zero", "division_by_zero", "sqrt_zero_grad", "pow_zero_grad", "invalid_domain", "degenerate_linalg"}


def decide(cause: Cause, experiments: Sequence[Experiment], origin: Origin) -> Cause:
    """The cause with what the experiments confirm, add or take back."""
    by_name = {e.name: e for e in experiments}
    if origin.phase in {"forward", "loss", "backward"}:
        cause = _by_precision(cause, origin, by_name.get(FLOAT32), by_name.get(FLOAT64))
    rows = by_name.get(ROWS)
    if rows is not None and rows.finite:
        cause = _because(cause, rows.says)
    same = by_name.get(SAME)
    if same is not None and same.finite:
        cause = _because(cause, "run once more the step stayed finite: it does not always fail")
        cause = replace(cause, confidence=_LOWER[cause.confidence])
    return cause


def _by_precision(cause: Cause, origin: Origin, float32: Experiment | None, float64: Experiment | None) -> Cause:
    if cause.label == "overflow_low_precision":
        return _low_precision(cause, float32, float64)
    if float32 is not None and float32.finite:
        if cause.label == "unknown":
            label = "overflow_low_precision"
            return Cause(label, "likely", (*cause.why, float32.says), REMEDIES[label])
        return _because(cause, "finite in float32: what the 16-bit type cannot hold, or rounds to zero, made it")
    if float64 is None:
        return cause
    if cause.label in _OF_NO_TYPE and float64.finite:
        why = "finite in float64: what is empty or masked there is not all of it"
        return replace(_because(cause, why), confidence=_LOWER[cause.confidence])
    if cause.label == "unknown" and float64.finite and origin.value == "inf":
        label = "exploding_gradient" if origin.phase == "backward" else "exploding_activation"
        return Cause(label, "likely", (*cause.why, _OUTGREW), REMEDIES[label])
    if cause.label in _OUTGROWN:
        if float64.finite:
            return _because(cause, _OUTGREW)
        return _because(cause, "not finite in float64 either: they grow without end, or something is undefined")
    if cause.label in _ZEROS and float64.finite:
        return _because(cause, "finite in float64: the type rounded the value there, it is not so by mathematics")
    return cause


def _low_precision(cause: Cause, float32: Experiment | None, float64: Experiment | None) -> Cause:
    if float32 is None:
        return cause
    if float32.finite:
        return replace(_because(cause, float32.says), confidence="certain")
    wider = " (it is in float64)" if float64 is not None and float64.finite else ""
    why = f"not finite in float32{wider}: the 16-bit type is not the only cause"
    return replace(_because(cause, why), confidence=_LOWER[cause.confidence])


def _because(cause: Cause, why: str) -> Cause:
    return cause if why in cause.why else replace(cause, why=(*cause.why, why))

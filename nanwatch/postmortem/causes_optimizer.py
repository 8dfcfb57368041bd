"""The cause of a value that the optimizer's own step made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nanwatch.postmortem.case import Case, Ruling, shown
from nanwatch.postmortem.causes_forward import judge_forward
from nanwatch.postmortem.causes_growth import NEARLY_TOO_LARGE, largest_input

_DWARFS = 1e3
"""An update this many times the parameter is no update."""


@dataclass(frozen=True)
class StepSettings:
    """What the step worked with."""

    settings: Mapping[str, Any]
    nonfinite: str | None
    """Name of a setting that is not finite."""
    gradient_absmax: float


def judge_step(case: Case | None, step: StepSettings) -> Ruling | None:
    """The label of a fault in the optimizer's step; `case` is None where the step on the stand-in stayed finite."""
    setting = f"runs with {step.nonfinite} = {step.settings.get(step.nonfinite or '')}"
    if step.nonfinite == "lr":
        return Ruling("nonfinite_lr", "certain", setting)
    if case is None:
        return None
    if step.nonfinite is not None and case.event.nonfinite_scalar:  # a bound of infinity is no fault
        return Ruling("nonfinite_lr", "likely", setting)
    found = _growing_decay(case, step) or judge_forward(case)
    if found is not None and found.label == "division_by_zero" and "eps" in step.settings:
        eps = float(step.settings["eps"])
        zero = f"eps = {shown(eps)}" + (f" is 0 in {case.dtype}" if eps else "")
        did = f"{found.did}: {zero}, and so is the second moment of the gradient"
        return replace(found, label="optimizer_eps", did=did)
    if found is not None and found.label not in {"exploding_activation", "bad_input", "overflow_low_precision"}:
        return found
    large = case.limit**NEARLY_TOO_LARGE
    if step.gradient_absmax >= large and largest_input(case) >= large:
        did = f"works with a gradient as large as {shown(step.gradient_absmax)}, and the result does not fit"
        return Ruling("exploding_gradient", "likely", f"{did} into {case.dtype}")
    if found is not None and found.label == "overflow_low_precision":
        return found
    return _too_fast(case, step)


def _growing_decay(case: Case, step: StepSettings) -> Ruling | None:
    """The factor 1 - lr * weight_decay is below -1."""
    lr = step.settings.get("lr")
    factor = case.at_bad("other") if case.op == "mul" and not case.is_nan else None
    if factor is None or lr is None or factor.least <= 1:
        return None
    did = f"multiplies the parameter by {shown(factor.low)}: 1 - lr * weight_decay, with lr = {shown(float(lr))}"
    return Ruling("lr_too_high", "certain", did)


def _too_fast(case: Case, step: StepSettings) -> Ruling | None:
    """Only with evidence: an update that dwarfs the parameter."""
    lr = step.settings.get("lr")
    before, update = case.at_bad("self"), case.at_bad("other")
    if case.is_nan or lr is None or case.op not in {"add", "sub"} or before is None or update is None:
        return None
    size = abs(case.number("alpha") or 1.0) * update.absmax
    if size <= _DWARFS * max(before.absmax, 1.0):
        return None
    did = f"changes the parameter by {shown(size)}, and it was {shown(before.absmax)} (lr = {shown(float(lr))})"
    return Ruling("lr_too_high", "likely", did)

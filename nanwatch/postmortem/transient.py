"""What is said of a step that gave another result when it was run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from nanwatch.postmortem.findings import Findings
from nanwatch.postmortem.hardware import counted_errors
from nanwatch.postmortem.replay import Outcome
from nanwatch.postmortem.tensors import state_of
from nanwatch.records import Cause

WHY = (
    "the step gave another result when it was run again: a hardware fault, a race, or state that the replay cannot see "
    "(a counter, a generator of its own)"
)
FIX = (
    "Look for state outside of the model that changes from step to step: a counter, a cache, a generator of its own.",
    "Train some steps with torch.use_deterministic_algorithms(True): a race then goes away or shows itself.",
    "Look at `hardware` in environment.json, and run the same steps on another machine.",
)


def transient_cause(findings: Findings, hardware: Mapping[str, Any]) -> Cause:
    """The cause of a fault that two replays did not show."""
    error = findings.verdict.error
    why = (WHY,) if error is None else (WHY, error)
    errors = counted_errors(hardware) if findings.repeats_on_cpu else 0
    if errors:
        # Without a count of errors a counter of the program's own looks just the same.
        more = "two replays on the CPU agree with each other bit for bit, and both are finite"
        counted = f"the hardware has counted {errors} memory error(s) since it was started"
        return Cause("hardware_fault", "possible", (*why, more, counted), FIX)
    return Cause("unknown", "possible", why, FIX)


def repeats_on_cpu(a: Outcome | None, b: Outcome | None) -> bool:
    """Whether two runs on the CPU gave the same bits, all of them finite, in their losses and in all gradients."""
    if a is None or b is None or len(a.gradients) != len(b.gradients):
        return False
    pairs = [*zip(a.roots, b.roots, strict=True), *zip(a.gradients, b.gradients, strict=True)]
    return all((x is None and y is None) or (x is not None and y is not None and _same_on_cpu(x, y)) for x, y in pairs)


def _same_on_cpu(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.device.type == y.device.type == "cpu" and state_of(x) == "finite" and torch.equal(x, y)

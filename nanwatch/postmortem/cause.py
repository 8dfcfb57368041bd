"""The named reason behind an origin, judged by the operation and the values that went into it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from nanwatch.postmortem.case import Case, Ruling, ranges
from nanwatch.postmortem.causes_backward import judge_backward
from nanwatch.postmortem.causes_forward import judge_forward
from nanwatch.postmortem.causes_optimizer import StepSettings, judge_step
from nanwatch.postmortem.op_families import short
from nanwatch.postmortem.provenance import Found
from nanwatch.postmortem.tracer import Event
from nanwatch.postmortem.wording import fixes, worded
from nanwatch.records import Cause, Origin


def name_cause(
    origin: Origin, found: Found, events: list[Event], leaf_name: Callable[[torch.Tensor], tuple[str, str]]
) -> Cause:
    """The cause of an origin that is an operation; label `unknown` when no judge recognises it.

    `leaf_name` gives kind (`data`, `params`, `constant`) and name of a tensor that was there before the step.
    """
    event = found.event
    assert event is not None
    case = _case(origin, event, found, events, leaf_name)
    ruling = judge_backward(case) if event.backward else judge_forward(case)
    return worded(ruling or _unrecognised(case), origin)


def name_step_cause(origin: Origin, event: Event | None, events: list[Event], step: StepSettings) -> Cause:
    """The cause of a value made by the optimizer's own step."""
    if event is None:
        ruling = judge_step(None, step)
        return (
            unknown("the parameter was finite before the step and is not after it")
            if ruling is None
            else worded(ruling, origin)
        )
    found = Found(event, None, (event,), frozenset({event.index}))
    case = _case(origin, event, found, events, lambda tensor: ("constant", ""))
    return worded(judge_step(case, step) or _unrecognised(case), origin)


def unknown(why: str) -> Cause:
    return Cause("unknown", "possible", (why,), fixes("unknown", None))


def _case(
    origin: Origin, event: Event, found: Found, events: list[Event],
    leaf_name: Callable[[torch.Tensor], tuple[str, str]],
) -> Case:  # fmt: skip
    op = event.located.op
    return Case(origin.phase, short(op), event, found, events, leaf_name)


def _unrecognised(case: Case) -> Ruling:
    what = "gradient of " if case.event.backward else ""
    did = f"makes {case.event.value} ({what}{case.op}), and no known pattern fits"
    return Ruling("unknown", "possible", did, ranges(case))

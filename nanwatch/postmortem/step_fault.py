"""The post-mortem of a fault in the optimizer's own step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch

from nanwatch.postmortem.cause import name_step_cause, unknown
from nanwatch.postmortem.findings import Findings
from nanwatch.postmortem.naming import Namer, path_of
from nanwatch.postmortem.rewind import Rewind
from nanwatch.postmortem.stand_in import StepFault, optimizer_state, run_step_again
from nanwatch.postmortem.tensors import state_of
from nanwatch.postmortem.tracer import Event
from nanwatch.postmortem.true_step import TrueStep
from nanwatch.probes.trip import Trip
from nanwatch.probes.watched import WatchedModels
from nanwatch.records import Origin, Replay, Seen

_STAND_IN = (
    "the parameter's value from before the step is not kept; the step was run again on a stand-in with the optimizer's "
    "state and settings as found"
)

_NOT_THE_STEP = (
    "the parameter was finite before the optimizer's last step, and that step, run again, leaves it finite: something "
    "else has written it"
)


def examine_step(trip: Trip, watched: WatchedModels, namer: Namer, rewind: Rewind) -> Findings:
    """Run the step again for the first parameter that it made non-finite; name the operation and the cause."""
    assert trip.optimizer is not None
    name = trip.seen.names[0]
    parameter = dict(watched.named_parameters())[name]
    true = TrueStep.of(rewind, trip.optimizer, parameter, parameter.grad)
    return _on_stand_in(trip, parameter, namer) if true is None else _from_true_values(trip, true, namer)


def examine_earlier_step(
    trip: Trip, findings: Findings, watched: WatchedModels, namer: Namer, rewind: Rewind
) -> Findings:
    """The step before, where that is what made the parameter bad which the replay has found bad already.

    On a device parameters are looked at only now and then, and the next loss may be the first sign.
    """
    origin = findings.origin
    if rewind.shadow is None or trip.optimizer is not None or origin is None or origin.phase != "params":
        return findings
    parameter = dict(watched.named_parameters()).get(origin.param or "")
    last = None if parameter is None else rewind.shadow.last_step(parameter)
    if parameter is None or last is None or state_of(parameter) == "finite":
        return findings
    value: Literal["nan", "inf"] = "nan" if state_of(parameter) == "nan" else "inf"
    rewind.step_of(last.optimizer)
    true = TrueStep.of(rewind, last.optimizer, parameter, last.gradient)
    if true is None:
        return findings
    seen = Seen("parameter", value, (origin.param or "",), 1)
    step = replace(trip, step=trip.step - 1, seen=seen, optimizer=last.optimizer, stack=last.stack)
    earlier = _from_true_values(step, true, namer)
    if earlier.verdict.verdict == "not_reproduced":
        rewind.undo()
        return replace(findings, scope=(*findings.scope, _NOT_THE_STEP))
    return replace(earlier, step=step.step)


def _on_stand_in(trip: Trip, parameter: torch.nn.Parameter, namer: Namer) -> Findings:
    assert trip.optimizer is not None
    state = optimizer_state(trip.optimizer, parameter, trip.seen.names[0])
    try:
        fault = run_step_again(trip.optimizer, parameter, trip.stack)
    except Exception as e:
        return _failed(trip, namer, state, (_STAND_IN,), _cannot(e))
    return _findings(trip, namer, fault, state, (_STAND_IN,), bitwise=False, finite="the step on the stand-in")


def _from_true_values(trip: Trip, true: TrueStep, namer: Namer) -> Findings:
    name = trip.seen.names[0]
    left = ", ".join(true.not_kept)
    scope = (f"of the optimizer's state, {left} is as the step left it: no copy from before is kept",) if left else ()
    state = true.state(name)
    if true.gradient is None:
        why = f"the gradient of {name} in that step has been overwritten: the step cannot be run again"
        return _failed(trip, namer, state, scope, why)
    try:
        fault, bitwise = true.run(trip.stack)
    except Exception as e:
        return _failed(trip, namer, state, scope, _cannot(e))
    return _findings(trip, namer, fault, state, scope, bitwise=bitwise, finite="the step from the same values")


def _findings(
    trip: Trip, namer: Namer, fault: StepFault, state: dict[str, Any], scope: tuple[str, ...], *, bitwise: bool,
    finite: str,
) -> Findings:  # fmt: skip
    origin = _origin(trip, namer, fault.elementary)
    if fault.event is None:
        verdict = Replay("not_reproduced", 1, bitwise=False, seconds=0.0, error=f"{finite} stayed finite")
        settled = name_step_cause(origin, None, [], fault.settings)
        return Findings(verdict, origin, settled, optimizer_state=state, scope=scope)
    cause = name_step_cause(origin, fault.elementary, fault.events, fault.settings)
    verdict = Replay("reproduced", 1, bitwise=bitwise, seconds=0.0)
    origin = replace(origin, op=fault.event.op)
    return Findings(verdict, origin, cause, path_of(fault.path), event=fault.event, optimizer_state=state, scope=scope)


def _failed(trip: Trip, namer: Namer, state: dict[str, Any], scope: tuple[str, ...], error: str) -> Findings:
    verdict = Replay("failed", 1, bitwise=False, seconds=0.0, error=error)
    cause = unknown(
        "the parameter went bad in the optimizer's step, or in what ran inside of it; it could not run again"
    )
    return Findings(verdict, _origin(trip, namer, None), cause, optimizer_state=state, scope=scope)


def _origin(trip: Trip, namer: Namer, elementary: Event | None) -> Origin:
    name = trip.seen.names[0]
    stack = elementary.stack if elementary is not None and elementary.stack else trip.stack
    return replace(
        namer.placed("optimizer", stack, name.rpartition(".")[0]), op=elementary.op if elementary else None,
        value=trip.seen.value, param=name, inputs=elementary.inputs if elementary else (),
        output=elementary.output if elementary else None,
    )  # fmt: skip


def _cannot(error: Exception) -> str:
    return f"the optimizer's step cannot be run again: {type(error).__name__}: {str(error)[:300]}"

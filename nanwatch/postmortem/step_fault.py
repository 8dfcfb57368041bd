"""The post-mortem of a fault in the optimizer's own step."""

from __future__ import annotations

from dataclasses import replace

from nanwatch.postmortem.cause import name_step_cause, unknown
from nanwatch.postmortem.findings import Findings
from nanwatch.postmortem.naming import Namer, path_of
from nanwatch.postmortem.stand_in import StepFault, optimizer_state, run_step_again
from nanwatch.probes.trip import Trip
from nanwatch.probes.watched import WatchedModels
from nanwatch.records import Replay

_STAND_IN = (
    "the parameter's value from before the step is not kept; the step was run again on a stand-in with the optimizer's "
    "state and settings as found"
)


def examine_step(trip: Trip, watched: WatchedModels, namer: Namer) -> Findings:
    """Run the step again for the first parameter that it made non-finite; name the operation and the cause."""
    assert trip.optimizer is not None
    parameters = dict(watched.named_parameters())
    name = trip.seen.names[0]
    fault: StepFault | None = None
    error = None
    try:
        fault = run_step_again(trip.optimizer, parameters[name], trip.stack)
    except Exception as e:
        error = f"the optimizer's step cannot be run again: {type(e).__name__}: {str(e)[:300]}"
    event = fault.event if fault is not None else None
    elementary = fault.elementary if fault is not None else None
    stack = elementary.stack if elementary is not None and elementary.stack else trip.stack
    origin = replace(
        namer.placed("optimizer", stack, name.rpartition(".")[0]), op=event.op if event else None,
        value=trip.seen.value, param=name, inputs=elementary.inputs if elementary else (),
        output=elementary.output if elementary else None,
    )  # fmt: skip
    state = optimizer_state(trip.optimizer, parameters[name], name)
    scope = (_STAND_IN,)
    if fault is None or event is None:
        why = error or "the step on the stand-in stayed finite"
        verdict = Replay("failed" if error else "not_reproduced", 1, bitwise=False, seconds=0.0, error=why)
        settled = None if fault is None else name_step_cause(origin, None, [], fault.settings)
        cause = settled or unknown("the optimizer made the parameter non-finite")
        return Findings(verdict, origin, cause, optimizer_state=state, scope=scope)
    cause = name_step_cause(origin, elementary, fault.events, fault.settings)
    verdict = Replay("reproduced", 1, bitwise=False, seconds=0.0)
    return Findings(verdict, origin, cause, path_of(fault.path), event=event, optimizer_state=state, scope=scope)

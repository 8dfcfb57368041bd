"""A bad batch that the program itself has made: the recorded call that did so, run again and searched in turn.

The batch, a teacher's targets, a state that is carried from step to step: the replay of a step starts from them as they
are. Where a recorded call made one of them, its own replay tells whether the value came from further back.
"""

from __future__ import annotations

from dataclasses import dataclass

from nanwatch.postmortem import evidence
from nanwatch.postmortem.naming import Namer
from nanwatch.postmortem.provenance import CONSTANTS, Found, Leaves, find_origin
from nanwatch.postmortem.replay import Plan, plan, run
from nanwatch.postmortem.tensors import state_of
from nanwatch.postmortem.tracer import Event, Tracer
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.flight_recorder import Path, Ref, leaves_in

_MAX_LOOKS = 4


@dataclass(frozen=True)
class Earlier:
    """An origin further back: what was found, in which events and plan, and the optimizer step it belongs to."""

    found: Found
    events: tuple[Event, ...]
    made: Plan
    step: int


def look_back(found: Found, made: Plan, probes: Probes, namer: Namer) -> Earlier | None:
    """The origin behind a bad leaf; None where no recorded call made it, or made it finite this time."""
    earlier: Earlier | None = None
    wanted = None if found.leaf is None else found.leaf.kind
    for _ in range(_MAX_LOOKS):
        maker = None if found.leaf is None else _maker(found, made, probes)
        if maker is None:
            break
        try:
            made = plan(probes.recorder, [Ref(*maker)])
            tracer = Tracer(made.batch_size)
            outcome = run(made, probes.watched.parameters, modules=namer.modules(), tracer=tracer, backward=False)
        except Exception:  # a call that is forgotten, or that cannot run twice: the leaf is as far as we can see
            break
        root = tracer.maker_of(outcome.roots[0]) if state_of(outcome.roots[0]) != "finite" else None
        if root is None:
            break
        leaves = Leaves(namer.state(), evidence.named_data(made, namer.ids()), made.stand_ins)
        found = find_origin(tracer.events, [root], leaves)
        if _is_written(found) or (wanted == "params" and found.leaf is not None):
            break  # a NaN that the program has put there by hand is data, wherever it has put it
        step = tracer.step_of(found.at)
        earlier = Earlier(found, tuple(tracer.events), made, probes.recorder.step if step is None else step)
    return earlier


def _is_written(found: Found) -> bool:
    if found.leaf is not None:
        return not found.leaf.name  # a number in the program has no name
    assert found.event is not None
    return found.event.nonfinite_scalar or found.event.op in CONSTANTS


def _maker(found: Found, made: Plan, probes: Probes) -> tuple[int, Path] | None:
    assert found.leaf is not None
    if found.leaf.kind == "params":  # set by the program itself, between two steps
        return probes.recorder.find(found.leaf.tensor)
    tokens = (t for c in made.calls for t in leaves_in(c))
    return next((t.maker for t in tokens if t.tensor is found.leaf.tensor and t.maker is not None), None)

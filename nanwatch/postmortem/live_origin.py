"""The origin of a value that shows again, read from the trace of the training itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nanwatch.postmortem import evidence
from nanwatch.postmortem.collectives import names_collective
from nanwatch.postmortem.findings import Findings
from nanwatch.postmortem.live_tracer import LiveTracer
from nanwatch.postmortem.naming import Namer, path_of
from nanwatch.postmortem.provenance import Found, Leaves, find_origin
from nanwatch.postmortem.replay import Plan
from nanwatch.postmortem.tensors import state_of
from nanwatch.postmortem.tracer import Event
from nanwatch.probes.trip import Trip
from nanwatch.probes.watched import WatchedModels

_LITERALS = {"aten::lift_fresh", "aten::lift_fresh_copy"}


def read_live(trip: Trip, replayed: Findings, tracer: LiveTracer, watched: WatchedModels, namer: Namer) -> Findings:
    """What the replay gave, with origin, cause and path from the trace; the replay's own where that does not tell.

    The verdict stays the replay's.
    """
    roots = _roots(trip, tracer, watched)
    if not roots:
        return replayed
    made = replayed.made or Plan([], [], [], [])
    found = find_origin(tracer.events, roots, Leaves(namer.state(), evidence.named_data(made, namer.ids()), {}))
    if not _is_seen_whole(found, tracer.events):
        return replayed
    origin, cause = namer.name(found, tracer.events, made)
    return replace(
        replayed, origin=origin, cause=cause, path=path_of(found.path), made=made, events=tuple(tracer.events),
        event=found.at, chain=found.path, calls=dict(tracer.calls), live=True,
    )  # fmt: skip


def _roots(trip: Trip, tracer: LiveTracer, watched: WatchedModels) -> list[Event]:
    """What made the loss where that is bad, else what made the bad gradients, or the bad buffers."""
    assert trip.backward is not None
    if trip.seen.where == "loss":
        bad = [r for r in trip.backward.tensors if state_of(r) != "finite"][:1]
    elif trip.seen.where == "grad":
        given = trip.backward.gradients or {}
        gradients = [given.get(id(p), p.grad) for p in watched.parameters]
        bad = [g for g in gradients if g is not None and state_of(g) != "finite"]
    else:
        placed = watched.placed_buffers()
        bad = [placed[n][1] for n in trip.seen.names if n in placed]
    return tracer.makers_of(bad)


def _is_seen_whole(found: Found, events: Sequence[Event]) -> bool:
    """Whether nothing on the way was made behind the trace's back: by a fused kernel, another thread, a collective."""
    for index in found.reached:
        for source in events[index].sources:
            if source.event is not None and source.state != "finite" and events[source.event].carried == "finite":
                return False
    if found.leaf is not None:
        return bool(found.leaf.name) or found.leaf.consumer.op in _LITERALS
    return found.event is not None and not names_collective(found.event.op)

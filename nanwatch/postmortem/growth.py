"""Where the magnitude grew on the way to an operation: read from the replay's events, nothing is run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nanwatch.postmortem.tensors import absmax
from nanwatch.postmortem.tracer import Event, Source, storage_key

_JOINS = {"cat", "stack", "hstack", "vstack", "concat"}
_SUMS = {"add", "add_"}
_BETWEEN = ("upsample", "grid_sampler", "lerp", "interpolate")
_CONVERSIONS = {"aten::_to_copy", "aten::t", "aten::transpose", "aten::view", "aten::detach", "aten::clone",
                "aten::expand", "aten::permute", "aten::_unsafe_view", "aten::unsqueeze"}  # fmt: skip
_LONGEST = 10_000


@dataclass(frozen=True)
class Growth:
    """At one line of the program the largest absolute value grew `from_value` -> `to_value`, in `times` operations."""

    event: Event
    """The last of them."""
    from_value: float
    to_value: float
    times: int
    kind: str | None
    """What kind of operation it is, where that explains the growth."""


@dataclass(frozen=True)
class _Step:
    event: Event
    before: float

    @property
    def factor(self) -> float:
        return self.event.absmax / self.before if self.before > 0 and math.isfinite(self.event.absmax) else 1.0


def greatest_growth(events: Sequence[Event], origin: Event) -> Growth | None:
    """The line at which the largest value grew most, of those that led to `origin`; None where nothing grew."""
    steps = [s for s in _way_to(events, origin) if s.factor > 1.0]
    places: dict[tuple[object, ...], list[_Step]] = {}
    for step in steps:
        places.setdefault((step.event.op, step.event.located.stack[:1]), []).append(step)
    if not places:
        return None
    most = max(places.values(), key=lambda s: sum(math.log(x.factor) for x in s))
    last, first = most[0], most[-1]  # the way leads backwards
    return Growth(last.event, first.before, last.event.absmax, len(most), _kind(last.event, events))


def _way_to(events: Sequence[Event], origin: Event) -> Iterator[_Step]:
    """From the origin's inputs back, always along the largest value."""
    at: Event | None = origin
    for _ in range(_LONGEST):
        assert at is not None
        sources = [s for s in at.sources if not s.carried and _of_this_pass(s, events, origin)]
        sizes = [_size(s, events) for s in sources]
        if not sizes:
            return
        largest = max(range(len(sizes)), key=sizes.__getitem__)
        event = sources[largest].event
        if at is not origin and not at.view:
            # What is joined to something larger that came from outside has not grown in any operation.
            joined = event is None and at.op.rpartition("::")[2] in _JOINS
            yield _Step(at, min(sizes) if joined else sizes[largest])
        if event is None:
            return
        at = events[event]


def _of_this_pass(source: Source, events: Sequence[Event], origin: Event) -> bool:
    """For a gradient its own way counts, not that of the activations that it is multiplied with."""
    return not origin.backward or (source.event is not None and events[source.event].backward)


def _size(source: Source, events: Sequence[Event]) -> float:
    if source.event is not None:
        return events[source.event].absmax
    if source.leaf is None:
        return 0.0
    return absmax(source.leaf)


def _kind(event: Event, events: Sequence[Event]) -> str | None:
    op = event.located.op.rpartition("::")[2]
    if op in _JOINS:
        return "a concatenation"
    if op.lstrip("_").startswith(_BETWEEN):
        return "an interpolation"
    uses = _uses_of_weights(event.located, events)
    if uses > 1:
        return f"a weight that is used {uses} times"
    if op in _SUMS and sum(s.event is not None for s in event.located.sources) > 1:
        return "a sum of two branches, as of a residual connection"
    return None


def _uses_of_weights(event: Event, events: Sequence[Event]) -> int:
    """In how many forward operations a parameter that this one reads is read."""
    uses: Counter[int | None] = Counter()
    for e in events:
        if not e.backward and not e.view and e.op not in _CONVERSIONS:
            uses.update({key for s in e.sources if (key := _parameter(s, events)) is not None})
    own = {key for s in event.sources if (key := _parameter(s, events)) is not None}
    return max((uses[key] for key in own), default=0)


def _parameter(source: Source, events: Sequence[Event]) -> int | None:
    """The storage of the parameter behind a source, seen through casts and views."""
    while source.event is not None and events[source.event].op in _CONVERSIONS and events[source.event].sources:
        source = events[source.event].sources[0]
    leaf = source.leaf
    return storage_key(leaf) if leaf is not None and leaf.requires_grad else None

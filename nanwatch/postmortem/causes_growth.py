"""Values that grew until their type ended: where they began to grow, and whether they came so with the batch."""

from __future__ import annotations

import math

from nanwatch.postmortem.case import Case, Ruling, one_of, ranges, shown
from nanwatch.postmortem.causes_leaf import named_like_label
from nanwatch.postmortem.closeup import span_of
from nanwatch.postmortem.op_families import GROWING, NORMALISATIONS, POWERS, short
from nanwatch.postmortem.traceback import frames, source_line
from nanwatch.postmortem.tracer import Event

NEARLY_TOO_LARGE = 0.4
"""A value above limit ** 0.4 (2.6e15 in float32) overflows in a sum of squares of a few like it."""
ABSURD = 0.25
"""A number of the batch above limit ** 0.25 (4.3e9 in float32) explains an overflow by itself."""
_NEVER_ABSURD = 1e9
_GREW = 1e4
_FACTORS = {"prod", "cumprod"}


def grown(case: Case) -> Ruling | None:
    """The result is too large for its type because what went in was nearly so; None where that cannot be shown."""
    large = case.limit**NEARLY_TOO_LARGE
    biggest = largest_input(case)
    many = case.op in _FACTORS and not case.is_nan
    if biggest < large and not many:
        return None
    if case.is_nan and biggest < math.sqrt(case.limit) and not one_of(case.op, GROWING, NORMALISATIONS, POWERS):
        return None
    if case.event.backward:
        return _gradient(case, biggest)
    from_batch = _from_batch(case)
    if from_batch is not None:
        return from_batch
    did = f"gets values as large as {shown(biggest)}; the result does not fit into {case.dtype} ({shown(case.limit)})"
    if many and biggest < large:
        did = f"multiplies so many numbers that the product does not fit into {case.dtype} ({shown(case.limit)})"
    return Ruling("exploding_activation", "likely", did, _where_it_grew(case) or ranges(case))


def largest_input(case: Case) -> float:
    """The largest finite magnitude among the operands, plain numbers too."""
    ends = [v for t in case.inputs for v in (t.min, t.max) if v is not None]
    return max((abs(v) for v in (*ends, *case.event.closeup.numbers.values()) if math.isfinite(v)), default=0.0)


def _gradient(case: Case, biggest: float) -> Ruling:
    did = f"gets values as large as {shown(biggest)}; the gradient does not fit into {case.dtype}"
    return Ruling("exploding_gradient", "likely", did, _where_it_grew(case) or ranges(case))


def _from_batch(case: Case) -> Ruling | None:
    """A number of the batch that is absurdly large, on the way to the result."""
    absurd = max(case.limit**ABSURD, _NEVER_ABSURD)
    for event in _ancestors(case):
        for source in event.sources:
            if source.leaf is None or not source.leaf.is_floating_point():
                continue
            kind, name = case.leaf_name(source.leaf)
            span = span_of(source.leaf) if kind == "data" else None
            if span is not None and absurd <= span.absmax < float("inf"):
                worst = span.high if abs(span.high) >= abs(span.low) else span.low
                did = f"gets values that are too large, and they come from the batch: {name} holds {shown(worst)}"
                return Ruling("bad_label" if named_like_label(name) else "bad_input", "likely", did, ranges(case))
    return None


def _ancestors(case: Case) -> list[Event]:
    """The operation, then what made its largest input, and so on back."""
    chain, at = [case.event], case.event
    while len(chain) < 400:
        makers = [case.events[s.event] for s in at.sources if s.event is not None and s.event < at.index]
        if not makers:
            break
        at = max(makers, key=lambda e: e.absmax)
        chain.append(at)
    return chain


def _where_it_grew(case: Case) -> tuple[str, ...]:
    """The first operation on the way whose result is large, with its line."""
    chain = _ancestors(case)[1:]
    first = next((e for e in reversed(chain) if e.absmax > _GREW), None)
    if first is None or first is chain[0]:
        return ()
    place = next(iter(frames(first.located.stack)), None)
    code = source_line(place)
    at = f" at {place.file.rpartition('/')[2]}:{place.line}" if place else ""
    what = "the gradient of " if first.backward else ""
    name = f"`{code}`" if code else short(first.op)
    return (f"The values pass {_GREW:g} first in {what}{name}{at} ({shown(first.absmax)}).",)

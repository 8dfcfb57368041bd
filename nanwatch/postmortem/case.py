"""What the judges of a cause look at, and what they say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from nanwatch.postmortem.closeup import Span
from nanwatch.postmortem.op_families import short
from nanwatch.postmortem.provenance import Found
from nanwatch.postmortem.tracer import Event
from nanwatch.records import Phase, TensorSummary

_SAME_NODE = 16
"""Operations of one backward node among which its result is looked for."""


@dataclass(frozen=True)
class Ruling:
    """A label with its evidence.

    `did` goes on from "`x = torch.log(p)` at train.py:41 ..."; the rows follow, then what stands after a semicolon or
    a colon in it.
    """

    label: str
    confidence: Literal["certain", "likely", "possible"]
    did: str
    more: tuple[str, ...] = ()
    """Further sentences, each complete."""
    fix: tuple[str, ...] = ()
    """Remedies for this very case; they come first."""


@dataclass(frozen=True)
class Case:
    """One operation that made a non-finite value, in its surroundings."""

    phase: Phase
    op: str
    """Short name of the forward operation: `log`, `softmax`, `addmm`."""
    event: Event
    found: Found
    events: list[Event]
    leaf_name: Callable[[torch.Tensor], tuple[str, str]]
    """Kind (`data`, `params`, `constant`) and name of a tensor that was there before the step."""

    @property
    def inputs(self) -> tuple[TensorSummary, ...]:
        return self.event.inputs

    @property
    def is_nan(self) -> bool:
        return self.event.value == "nan"

    @property
    def dtype(self) -> str:
        output = self.event.output
        return "float32" if output is None else output.dtype

    @property
    def limit(self) -> float:
        """The largest number of the type."""
        dtype = getattr(torch, self.dtype, torch.float32)
        if dtype.is_complex:
            dtype = dtype.to_real()
        return float(torch.finfo(dtype).max) if dtype.is_floating_point else float(torch.finfo(torch.float32).max)

    def input(self, *names: str) -> TensorSummary | None:
        return next((t for t in self.inputs if t.name.split("[")[0] in names), None)

    def number(self, name: str) -> float | None:
        """A plain number that the operation was given (or gave, as `result1`; or kept, as `kept.exponent`)."""
        return self.event.closeup.numbers.get(name)

    def at_bad(self, name: str) -> Span | None:
        """An operand, plain numbers too, at the elements that went bad; None where it is not element by element."""
        closeup = self.event.closeup
        found = closeup.at_bad.get(name) or closeup.at_bad.get(f"{name}[0]")
        if found is None and name in closeup.numbers:
            value = closeup.numbers[name]
            found = Span(value, value, abs(value))
        return found

    def kept(self, name: str) -> Span | None:
        """What the forward operation had kept for its backward, at the bad elements where that can be told."""
        closeup = self.event.closeup
        found = closeup.kept.get(name)
        if found is None and f"kept.{name}" in closeup.numbers:
            value = closeup.numbers[f"kept.{name}"]
            found = Span(value, value, abs(value))
        return found

    @property
    def reads_infinity(self) -> bool:
        """The operation was given infinities that the program wrote on purpose."""
        return any(s.state == "inf" for s in self.event.sources)

    def same_node(self) -> list[Event]:
        """In backward: this operation and those after it that compute the same gradient from its result."""
        out, made = [self.event], {self.event.index}
        for event in self.events[self.event.index + 1 : self.event.index + 1 + _SAME_NODE]:
            if event.node == self.event.node and any(s.event in made for s in event.sources):
                out.append(event)
                made.add(event.index)
        return out

    @property
    def incoming_is_zero(self) -> bool:
        """In backward: the gradient that came in is zero at every bad element, and the result there is NaN."""
        for event in self.same_node():
            if event.closeup.gradient is not None:
                return event.value == "nan" and event.closeup.gradient.is_zero
        return False


def one_of(op: str, *families: frozenset[str]) -> bool:
    return any(op in family for family in families)


def shown(value: float) -> str:
    """A number as Python would show it, six digits at most."""
    text = f"{value:.6g}"
    return text if any(c in text for c in ".en") else f"{text}.0"


def shown_span(span: Span | None) -> str:
    """One number where all elements are the same."""
    if span is None:
        return "a value"
    return shown(span.low) if span.low == span.high else f"values from {shown(span.low)} to {shown(span.high)}"


def ranges(case: Case) -> tuple[str, ...]:
    """The inputs' ranges in words, for the reader to check."""
    told = [
        f"{t.name} is {t.dtype} {list(t.shape)} and lies between {shown(t.min)} and {shown(t.max)}"
        for t in case.inputs
        if t.min is not None and t.max is not None
    ]
    return (f"Of its inputs, {'; '.join(told[:3])}.",) if told else ()


def reaches(events: list[Event], start: Event, ops: frozenset[str], steps: int = 4) -> Event | None:
    """The event of one of `ops` that reads the value of a forward event within a few operations."""
    reached = {start.index}
    for event in events[start.index + 1 : start.index + 1 + 8 * steps]:
        if any(s.event in reached for s in event.sources) and not event.backward:
            if short(event.op) in ops:
                return event
            reached.add(event.index)
    return None

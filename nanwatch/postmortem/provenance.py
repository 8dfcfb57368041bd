"""From the loss (or the first bad gradient) backwards to the operation that made the value.

Only values that reach the root count: the walk follows non-finite inputs alone, so a -inf that a mask or a `where`
keeps away from the loss is never met. A constant that the program wrote (a mask) is intended; the origin is then the
operation that turned it into NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from nanwatch.postmortem.tensors import is_mask
from nanwatch.postmortem.tracer import Event, Source, storage_key

CONSTANTS = {"aten::masked_fill", "aten::masked_fill_", "aten::full", "aten::full_like", "aten::fill", "aten::fill_",
              "aten::new_full", "aten::scalar_tensor", "aten::lift_fresh", "aten::lift_fresh_copy", "aten::where",
              "aten::constant_pad_nd", "aten::index_fill", "aten::index_fill_", "aten::detach"}  # fmt: skip


CASTS = {"aten::_to_copy", "aten::copy_"}

LeafKind = Literal["data", "params", "constant"]


@dataclass(frozen=True)
class LeafOrigin:
    """A non-finite value that was there before the step ran."""

    kind: LeafKind
    name: str
    tensor: torch.Tensor
    consumer: Event


@dataclass(frozen=True)
class Found:
    """The origin, and the way from it to the root: origin first."""

    event: Event | None
    leaf: LeafOrigin | None
    path: tuple[Event, ...]
    reached: frozenset[int]
    """Every event whose bad value reached the root."""

    @property
    def at(self) -> Event:
        """The operation that made the value, or the first that read it."""
        at = self.event if self.leaf is None else self.leaf.consumer
        assert at is not None
        return at


class Leaves:
    """What the tensors that were there before the replay are: by storage, so that views of them count too."""

    def __init__(
        self,
        parameters: Mapping[str, torch.Tensor],
        data: Mapping[str, torch.Tensor],
        stand_ins: Mapping[int, torch.Tensor],
    ) -> None:
        self._known: dict[int | None, tuple[LeafKind, str, torch.Tensor]] = {}
        for name, tensor in data.items():
            self._known[storage_key(tensor)] = ("data", name, tensor)
            if id(tensor) in stand_ins:
                self._known[storage_key(stand_ins[id(tensor)])] = ("data", name, tensor)
        for name, tensor in parameters.items():
            self._known[storage_key(tensor)] = ("params", name, tensor)
            if id(tensor) in stand_ins:
                self._known[storage_key(stand_ins[id(tensor)])] = ("params", name, stand_ins[id(tensor)])

    def classify(self, tensor: torch.Tensor) -> tuple[LeafKind, str, torch.Tensor]:
        """Kind, name and whole tensor behind what an operation read."""
        key = storage_key(tensor)
        unknown: tuple[LeafKind, str, torch.Tensor] = ("constant", "", tensor)
        return unknown if key is None else self._known.get(key, unknown)


def find_origin(events: Sequence[Event], roots: Sequence[Event], leaves: Leaves) -> Found:
    """The first real birth, in order of execution, among what made the roots (one or more) bad."""
    reached = upstream(events, roots)
    intended = _intended(events, reached, leaves)
    for index in sorted(reached):
        event = events[index]
        for source in event.sources:
            if source.event is None and source.state != "finite":
                leaf = _bad_leaf(source, event, leaves)
                if leaf is not None:
                    return Found(None, leaf, _path(events, event, roots, reached), reached)
        if index not in intended and event.value != "finite" and _is_birth(event, intended):
            return Found(event, None, _path(events, event, roots, reached), reached)
    # Everything upstream is intended: the root itself turned constants into a bad value.
    return Found(roots[0], None, (roots[0],), reached)


def upstream(events: Sequence[Event], roots: Sequence[Event]) -> frozenset[int]:
    """Every event whose bad value went into one of the roots, and these."""
    todo = [r.index for r in roots]
    seen = set(todo)
    while todo:
        for source in events[todo.pop()].sources:
            if source.event is not None and source.state != "finite" and source.event not in seen:
                seen.add(source.event)
                todo.append(source.event)
    return frozenset(seen)


def _is_birth(event: Event, intended: set[int]) -> bool:
    bad = [s for s in event.sources if s.state != "finite"]
    if not bad:
        return True
    if event.value != "nan" or any(s.state == "nan" for s in bad):
        return False
    return all(s.event in intended or (s.event is None) for s in bad)


def _intended(events: Sequence[Event], reached: frozenset[int], leaves: Leaves) -> set[int]:
    """Events whose infinities go back to constants that the program wrote."""
    out: set[int] = set()
    for index in sorted(reached):
        event = events[index]
        if event.value != "inf":
            continue
        bad = [s for s in event.sources if s.state != "finite"]
        if not bad:
            if event.op in CONSTANTS and (event.nonfinite_scalar or event.op != "aten::where"):
                out.add(index)
        elif all(s.event in out if s.event is not None else _intended_leaf(s, leaves) for s in bad):
            out.add(index)
    return out


def _intended_leaf(source: Source, leaves: Leaves) -> bool:
    """An infinity that came in from outside and is a mask, a lone number, or a constant of the program."""
    if source.leaf is None or source.state == "nan":
        return False
    kind, _, _ = leaves.classify(source.leaf)
    return kind == "constant" or source.leaf.dim() == 0 or is_mask(source.leaf)


def _bad_leaf(source: Source, event: Event, leaves: Leaves) -> LeafOrigin | None:
    if source.leaf is None or _intended_leaf(source, leaves):
        return None
    kind, name, tensor = leaves.classify(source.leaf)
    if kind == "constant" and source.state == "inf":
        return None
    return LeafOrigin("data" if kind == "constant" else kind, name, tensor, event)


def _path(events: Sequence[Event], start: Event, roots: Sequence[Event], reached: frozenset[int]) -> tuple[Event, ...]:
    """The shortest chain of bad values from `start` to one of the roots."""
    todo = [r.index for r in roots]
    came_from: dict[int, int | None] = dict.fromkeys(todo)
    for index in todo:
        if index == start.index:
            break
        for source in events[index].sources:
            if source.event in reached and source.event is not None and source.event not in came_from:
                came_from[source.event] = index
                todo.append(source.event)
    chain: list[Event] = []
    at: int | None = start.index if start.index in came_from else roots[0].index
    while at is not None:
        chain.append(events[at])
        at = came_from[at]
    return tuple(chain)

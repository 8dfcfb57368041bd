"""The way from the origin to the loss, short enough to read: a long one is folded in the middle."""

from __future__ import annotations

from dataclasses import dataclass

from nanwatch.records import Incident, PathNode

_HEAD, _TAIL = 6, 4


@dataclass(frozen=True)
class Chain:
    """`hidden` nodes stand between `head` and `tail`."""

    head: tuple[PathNode, ...]
    hidden: tuple[PathNode, ...]
    tail: tuple[PathNode, ...]

    @property
    def length(self) -> int:
        return len(self.head) + len(self.hidden) + len(self.tail)


def fold(incident: Incident) -> Chain:
    """The path of an incident, in three parts."""
    path = incident.path
    if len(path) <= _HEAD + _TAIL + 2:
        return Chain(path, (), ())
    return Chain(path[:_HEAD], path[_HEAD:-_TAIL], path[-_TAIL:])

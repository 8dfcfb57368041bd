"""The way from the origin to the loss, short enough to read: views left out, a long one folded in the middle."""

from __future__ import annotations

from dataclasses import dataclass

from nanwatch.records import Incident, PathNode

_HEAD, _TAIL = 6, 4
_VIEWS = {
    "alias", "as_strided", "clone", "detach", "expand", "lift_fresh", "permute", "reshape", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "to_copy", "transpose", "unbind", "unsafe_view", "unsqueeze", "view",
}  # fmt: skip


@dataclass(frozen=True)
class Chain:
    """`hidden` nodes stand between `head` and `tail`; `views` operations that only move values were left out."""

    head: tuple[PathNode, ...]
    hidden: tuple[PathNode, ...]
    tail: tuple[PathNode, ...]
    views: int

    @property
    def length(self) -> int:
        return len(self.head) + len(self.hidden) + len(self.tail)


def fold(incident: Incident) -> Chain:
    """The path of an incident, in three parts."""
    whole = incident.path
    last = len(whole) - 1
    path = tuple(n for i, n in enumerate(whole) if i in {0, last} or _short(n.op) not in _VIEWS)
    views = len(whole) - len(path)
    if len(path) <= _HEAD + _TAIL + 2:
        return Chain(path, (), (), views)
    return Chain(path[:_HEAD], path[_HEAD:-_TAIL], path[-_TAIL:], views)


def _short(op: str) -> str:
    return op.rsplit("::", 1)[-1].strip("_")

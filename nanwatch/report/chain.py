"""The way from the origin to the loss, short enough to read.

What only moves values is left out, operations of one line are told together, a long middle is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from nanwatch.records import PathNode

MAX_LINKS = 12
_TAIL = 4
_NAMED_IN_A_LINK = 3
_VIEWS = {
    "alias", "as_strided", "clone", "detach", "expand", "lift_fresh", "permute", "reshape", "select", "slice", "split",
    "split_with_sizes", "squeeze", "t", "to_copy", "transpose", "unbind", "unsafe_view", "unsqueeze", "view",
}  # fmt: skip


@dataclass(frozen=True)
class Link:
    """Operations in a row that one line of one module has made."""

    nodes: tuple[PathNode, ...]

    @property
    def ops(self) -> str:
        """`sub, exp, sum`, or `sub, exp ... mean (9 operations)`."""
        names = [short_op(n.op) for n in self.nodes]
        if len(names) <= _NAMED_IN_A_LINK:
            return ", ".join(names)
        return f"{', '.join(names[: _NAMED_IN_A_LINK - 1])} ... {names[-1]} ({len(names)} operations)"

    @property
    def module(self) -> str:
        return module_name(self.nodes[0].module)

    @property
    def place(self) -> str:
        """`model.py:28`; empty where the line is not known."""
        first = self.nodes[0]
        return f"{PurePath(first.file).name}:{first.line}" if first.file else ""

    @property
    def value(self) -> str:
        return self.nodes[-1].value


@dataclass(frozen=True)
class Chain:
    """`hidden` links stand between `head` and `tail`; `views` operations that only move values were left out."""

    head: tuple[Link, ...]
    hidden: tuple[Link, ...]
    tail: tuple[Link, ...]
    views: int

    @property
    def length(self) -> int:
        """Operations in all."""
        return sum(len(link.nodes) for link in (*self.head, *self.hidden, *self.tail))

    @property
    def middle(self) -> str:
        """`37 more operations in layers.1 ... layers.5`; empty where nothing is hidden."""
        if not self.hidden:
            return ""
        count = sum(len(link.nodes) for link in self.hidden)
        first, last = self.hidden[0].module, self.hidden[-1].module
        where = first if first == last else f"{first} ... {last}"
        return f"{count} more operation{'' if count == 1 else 's'} in {where}"


def fold(path: Sequence[PathNode]) -> Chain:
    """The path of an incident in at most `MAX_LINKS` lines, that of the hidden ones included."""
    last = len(path) - 1
    kept = [n for i, n in enumerate(path) if i in {0, last} or short_op(n.op) not in _VIEWS]
    links = tuple(_links(kept))
    views = len(path) - len(kept)
    if len(links) <= MAX_LINKS:
        return Chain(links, (), (), views)
    head = MAX_LINKS - 1 - _TAIL
    return Chain(links[:head], links[head:-_TAIL], links[-_TAIL:], views)


def short_op(op: str) -> str:
    """`softmax` for `aten::_softmax`: as the program may have written it."""
    return op.rsplit("::", 1)[-1].strip("_")


def module_name(module: str | None) -> str:
    """The module's path, or what stands for it."""
    return "outside the model" if module is None else module or "the model itself"


def _links(path: Iterable[PathNode]) -> Iterable[Link]:
    run: list[PathNode] = []
    for node in path:
        if run and (node.module, node.file, node.line) != (run[-1].module, run[-1].file, run[-1].line):
            yield Link(tuple(run))
            run = []
        run.append(node)
    if run:
        yield Link(tuple(run))

"""The modules that ran, as trees in order of execution, and where data flowed between them.

A module's own code runs between its children: qkv -> attention's own code -> proj. A box cannot stand between the boxes
inside it, so such a way is shortened to qkv -> proj. Own code that runs several times (residual additions) also yields
short cuts that no data took; a drawing leaves out a shortened edge where a longer way leads to the same box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nanwatch.report.evidence import Graph, Module

LOSS = "(loss)"
"""Code outside the model, as `graph.json` names it."""

Edge = tuple[str, str]


@dataclass
class Node:
    """A module and the modules inside it."""

    module: Module
    children: list[Node] = field(default_factory=list)

    def ids(self) -> set[str]:
        """Its id and those of everything inside."""
        return {self.module.id}.union(*(c.ids() for c in self.children))

    def signature(self) -> tuple[object, ...]:
        """Equal for modules that are built alike."""
        return self.module.type, *(c.signature() for c in self.children)

    def is_live(self) -> bool:
        """Whether it or something inside it was run."""
        return self.module.calls > 0 or any(c.is_live() for c in self.children)


class Flow:
    """`roots` in order of execution; `edges` as they are, `shortened` ones past own code; `size`: modules in all."""

    def __init__(self, graph: Graph, keep: str | None = None) -> None:
        nodes = {m.id: Node(m) for m in graph.modules if m.id != LOSS}
        self.size = len(nodes)
        order = _order(graph.edges)
        roots = _trees(nodes)
        # One box around everything says nothing, unless it is the one to `keep`.
        while len(roots) == 1 and roots[0].children and roots[0].module.id != keep:
            roots = roots[0].children
        living = [r for r in roots if r.is_live()] or roots
        self.roots = _sorted(living, order)
        drawn = set[str]().union(*(r.ids() for r in self.roots)) | {LOSS}
        ancestors = {name: _ancestors(name, nodes) for name in nodes}
        self.edges = [e for e in dict.fromkeys(graph.edges) if e[0] != e[1]]
        self.shortened = _past_own_code(self.edges, ancestors, drawn, order)


def _trees(nodes: dict[str, Node]) -> list[Node]:
    roots: list[Node] = []
    for name, node in nodes.items():
        parent = node.module.parent
        # A circle of parents comes only from a damaged file: it is cut where it closes.
        if parent is None or parent not in nodes or name in _ancestors(parent, nodes) or parent == name:
            roots.append(node)
        else:
            nodes[parent].children.append(node)
    return roots


def _ancestors(name: str, nodes: dict[str, Node]) -> set[str]:
    found: set[str] = set()
    at = nodes[name].module.parent
    while at is not None and at in nodes and at not in found:
        found.add(at)
        at = nodes[at].module.parent
    return found


def _order(edges: Sequence[Edge]) -> dict[str, float]:
    """Module -> when it first ran. An edge stands in the list where its end first took something from its start."""
    first: dict[str, float] = {}
    for i, (_, b) in enumerate(edges):
        first.setdefault(b, i)
    for a, b in edges:
        if a not in first or first[a] % 1:
            # It took from nobody: it ran before whoever took from it first.
            first[a] = min(first.get(a, first[b]), first[b] - 0.5)
    return first


def _sorted(nodes: list[Node], order: dict[str, float]) -> list[Node]:
    for node in nodes:
        node.children = _sorted([c for c in node.children if c.is_live()] or node.children, order)
    last = len(order)
    return sorted(nodes, key=lambda n: min((order.get(i, last) for i in n.ids()), default=last))


def _past_own_code(
    edges: Iterable[Edge], ancestors: dict[str, set[str]], drawn: set[str], order: dict[str, float]
) -> list[Edge]:
    """For each way into a surrounding module's own code and out of it again, one that leads past it."""
    into: dict[str, list[str]] = {}
    for a, b in edges:
        if b in ancestors.get(a, ()) or b not in drawn:
            into.setdefault(b, []).append(a)
    return [
        (a, c)
        for b, c in edges
        if b in ancestors.get(c, ()) or b not in drawn
        for a in into.get(b, ())
        if order[a] < order[c]
    ]

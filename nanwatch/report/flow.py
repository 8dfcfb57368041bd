"""The modules that ran, as trees in order of execution, and where data flowed between them.

A module's own code runs between its children: qkv -> attention's own code -> proj. A box cannot stand between the boxes
inside it, so such a way is shortened to qkv -> proj.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nanwatch.report.evidence import Graph, Module
from nanwatch.report.layers import execution_order

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
    """`roots` in order of execution; `edges` between them and everything inside; `size`: modules in all."""

    def __init__(self, graph: Graph) -> None:
        nodes = {m.id: Node(m) for m in graph.modules if m.id != LOSS}
        self.size = len(nodes)
        order = _order(graph.edges)
        roots = _trees(nodes)
        # One box around everything says nothing, unless its own code is the origin.
        while len(roots) == 1 and roots[0].children and roots[0].module.id != graph.origin:
            roots = roots[0].children
        living = [r for r in roots if r.is_live()] or roots
        self.roots = _sorted(living, order)
        drawn = set[str]().union(*(r.ids() for r in self.roots)) | {LOSS}
        ancestors = {name: _ancestors(name, nodes) for name in nodes}
        self.edges = _without_own_code(graph.edges, ancestors, drawn, order)


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


def _order(edges: Sequence[Edge]) -> dict[str, int]:
    """Module -> its place in the order of execution, which the edges stand in too."""
    first_use = dict.fromkeys(end for edge in edges for end in edge)
    return {name: i for i, name in enumerate(execution_order(list(first_use), edges))}


def _sorted(nodes: list[Node], order: dict[str, int]) -> list[Node]:
    for node in nodes:
        node.children = _sorted([c for c in node.children if c.is_live()] or node.children, order)
    last = len(order)
    return sorted(nodes, key=lambda n: min((order.get(i, last) for i in n.ids()), default=last))


def _without_own_code(
    edges: Iterable[Edge], ancestors: dict[str, set[str]], drawn: set[str], order: dict[str, int]
) -> list[Edge]:
    """The edges, and in place of each way in and out of a surrounding module's own code one that leads past it."""
    direct = list(dict.fromkeys((a, b) for a, b in edges if a != b))
    into: dict[str, list[str]] = {}
    for a, b in direct:
        if b in ancestors.get(a, ()) or b not in drawn:
            into.setdefault(b, []).append(a)
    past = [
        (a, c)
        for b, c in direct
        for a in into.get(b, ())
        if (b in ancestors.get(c, ()) or b not in drawn) and order[a] < order[c] and a != c
    ]
    after: dict[str, set[str]] = {}
    for a, b in (*direct, *past):
        if order[a] < order[b]:
            after.setdefault(a, set()).add(b)
    kept = [e for e in dict.fromkeys(past) if e in set(direct) or not _has_detour(e, after, ancestors)]
    return [*(e for e in direct if e[0] in drawn and e[1] in drawn), *kept]


def _has_detour(edge: Edge, after: dict[str, set[str]], ancestors: dict[str, set[str]]) -> bool:
    """Whether `edge` only shortens a longer way between its ends that stays clear of the modules around them."""
    start, end = edge
    around = ancestors.get(start, set()) & ancestors.get(end, set())
    seen: set[str] = set()
    waiting = [n for n in after.get(start, ()) if n != end and n not in around]
    while waiting:
        at = waiting.pop()
        if at == end:
            return True
        if at not in seen:
            seen.add(at)
            waiting += [n for n in after.get(at, ()) if n not in around]
    return False

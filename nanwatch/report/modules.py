"""Which modules a drawing shows: all of a small model; of a large one the upper levels and what leads to the origin."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nanwatch.report.evidence import Graph, Module
from nanwatch.report.figures import number_text
from nanwatch.report.flow import LOSS, Flow, Node

SMALL = 60
"""Modules up to which everything is shown."""
INPUT, STEP = "(input)", "(step)"
_RUN = 3
"""Equal siblings in a row that become one stacked box."""
_MAX_CHILDREN = 24
_LISTS = {"ModuleList", "ModuleDict"}


@dataclass(frozen=True)
class Shape:
    """A box of the drawing, with the boxes inside it."""

    id: str
    title: str
    subtitle: str
    tooltip: str
    mark: str = ""
    """origin, path, bad or nothing."""
    stacked: int = 1
    """Modules that this box stands for."""
    children: tuple[Shape, ...] = ()
    edges: tuple[tuple[str, str], ...] = ()


def select(graph: Graph, phase: str | None) -> tuple[tuple[Shape, ...], tuple[tuple[str, str], ...]]:
    """The outermost shapes, from the input to the loss, and the edges between them.

    `phase` is the origin's: input (data), loss code (loss) or the optimizer's step are marked instead of a module.
    """
    outside = {"data": LOSS if graph.origin == LOSS else INPUT, "loss": LOSS, "optimizer": STEP}.get(
        phase or "", graph.origin
    )
    marked = outside if phase == "data" or graph.origin in {None, LOSS} else None
    flow = Flow(graph, keep=graph.origin if marked is None else None)
    builder = _Builder(graph, flow, is_origin=marked is None)
    shapes = list(builder.shapes(flow.roots, 0))
    edges = list(builder.edges_in(None))
    sources, targets = {a for a, _ in edges}, {b for _, b in edges}
    start = Shape(INPUT, "input", "batch", "what the model was given", "origin" if marked == INPUT else "")
    reached = "origin" if marked == LOSS else "path" if graph.path and marked != STEP else ""
    end = Shape(LOSS, "loss", "code outside the model", "where the value arrived", reached)
    edges += [(INPUT, s.id) for s in shapes if s.id not in targets]
    edges += [(s.id, LOSS) for s in shapes if s.id not in sources]
    if marked != STEP:
        return (start, *shapes, end), tuple(edges)
    step = Shape(STEP, "optimizer's step", "after backward", "where the parameters are changed", "origin")
    return (start, *shapes, end, step), (*edges, (LOSS, STEP))


class _Builder:
    def __init__(self, graph: Graph, flow: Flow, *, is_origin: bool) -> None:
        self._origin = graph.origin
        self._origin_mark = "origin" if is_origin else "path"
        self._path = frozenset(graph.path)
        self._flow = flow
        self._is_small = flow.size <= SMALL
        self._home: dict[str, list[str]] = {LOSS: [LOSS]}
        """Module -> the shapes that it lies in, from the outside inwards."""

    def shapes(self, nodes: Sequence[Node], depth: int, above: tuple[str, ...] = ()) -> tuple[Shape, ...]:
        """The shapes for siblings; equal ones in a row become a stack."""
        out: list[Shape] = []
        at = 0
        while at < len(nodes):
            run = 1 if self._is_small else self._run_length(nodes, at)
            if run >= _RUN:
                out.append(self._stack(nodes[at : at + run], above))
            else:
                run = 1
                out.append(self._shape(nodes[at], depth, above))
            at += run
        if len(out) > _MAX_CHILDREN and not self._is_small:
            out = self._shortened(out, above)
        return tuple(out)

    def edges_in(self, container: str | None) -> tuple[tuple[str, str], ...]:
        """Edges between the shapes right inside `container`; None for the outermost ones."""
        direct = self._projected(self._flow.edges, container)
        shortened = [e for e in self._projected(self._flow.shortened, container) if e not in direct]
        after: dict[str, list[str]] = {}
        for a, b in (*direct, *shortened):
            after.setdefault(a, []).append(b)
        return (*direct, *(e for e in shortened if not _has_detour(e, after)))

    def _projected(self, edges: Sequence[tuple[str, str]], container: str | None) -> dict[tuple[str, str], None]:
        out: dict[tuple[str, str], None] = {}
        for a, b in edges:
            way_a, way_b = self._home.get(a, []), self._home.get(b, [])
            level = next((i for i, (x, y) in enumerate(zip(way_a, way_b, strict=False)) if x != y), None)
            if level is not None and (way_a[level - 1] if level else None) == container:
                out[way_a[level], way_b[level]] = None
        return out

    def _shape(self, node: Node, depth: int, above: tuple[str, ...]) -> Shape:
        module, inside = node.module, node.ids()
        self._enter(inside, above, module.id)
        holds_origin = self._origin in inside and self._origin != module.id
        children: tuple[Shape, ...] = ()
        if node.children and (self._is_small or holds_origin or depth < 1):
            deeper = depth if module.type in _LISTS else depth + 1
            children = self.shapes(node.children, deeper, (*above, module.id))
        return Shape(
            module.id,
            _last(module.id),
            _subtitle(module, hidden=0 if children else len(inside) - 1),
            _tooltip(module),
            self._mark({module.id} if children else inside, node),
            1,
            children,
            self.edges_in(module.id) if children else (),
        )

    def _stack(self, nodes: Sequence[Node], above: tuple[str, ...]) -> Shape:
        first, last = nodes[0].module, nodes[-1].module
        inside = set[str]().union(*(n.ids() for n in nodes))
        self._enter(inside, above, first.id)
        title = f"{_last(first.id)} … {_last(last.id)}"
        tooltip = f"{first.id} to {last.id}: {len(nodes)} modules of the same kind"
        return Shape(first.id, title, f"{len(nodes)} × {first.type}", tooltip, self._mark(inside, *nodes), len(nodes))

    def _shortened(self, shapes: list[Shape], above: tuple[str, ...]) -> list[Shape]:
        """The first and last children, whatever holds the origin, and one box for the rest."""
        keep = {s.id for s in (*shapes[: _MAX_CHILDREN // 2], *shapes[-_MAX_CHILDREN // 2 :])}
        keep |= {s.id for s in shapes if s.mark == "origin" or s.children}
        rest = [s for s in shapes if s.id not in keep]
        if not rest:
            return shapes
        hidden, where = {s.id for s in rest}, len(above)
        for way in self._home.values():
            if len(way) > where and way[where] in hidden:
                way[where:] = [rest[0].id]
        mark = "path" if any(s.mark == "path" for s in rest) else ""
        more = Shape(rest[0].id, f"{len(rest)} more", "not drawn", ", ".join(s.title for s in rest), mark, len(rest))
        return [more if s is rest[0] else s for s in shapes if s.id in keep or s is rest[0]]

    def _run_length(self, nodes: Sequence[Node], at: int) -> int:
        if self._origin in nodes[at].ids():
            return 1
        kind, end = nodes[at].signature(), at + 1
        while end < len(nodes) and nodes[end].signature() == kind and self._origin not in nodes[end].ids():
            end += 1
        return end - at

    def _enter(self, inside: set[str], above: tuple[str, ...], shape_id: str) -> None:
        for module_id in inside:
            self._home[module_id] = [*above, shape_id]

    def _mark(self, inside: set[str], *nodes: Node) -> str:
        if self._origin is not None and self._origin in inside:
            return self._origin_mark
        if inside & self._path:
            return "path"
        return "bad" if any(n.module.nonfinite for n in nodes) else ""


def _has_detour(edge: tuple[str, str], after: dict[str, list[str]]) -> bool:
    """Whether a way over other boxes leads from the start of `edge` to its end."""
    start, end = edge
    seen = {start}
    waiting = [n for n in after.get(start, ()) if n != end]
    while waiting:
        at = waiting.pop()
        if at == end:
            return True
        if at not in seen:
            seen.add(at)
            waiting += after.get(at, ())
    return False


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1] or "model"


def _subtitle(module: Module, hidden: int) -> str:
    return f"{module.type or ''}{f' · {hidden} inside' if hidden else ''}"


def _tooltip(module: Module) -> str:
    facts = [f"{module.id or 'model'}: {module.type}", f"{module.parameters:,} parameters"]
    if module.calls and module.absmax is not None:
        facts.append(f"largest value {number_text(module.absmax)}")
    if module.nonfinite:
        facts.append("gave values that are not finite")
    return "; ".join(facts)

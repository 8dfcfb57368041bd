"""The module graph and the operations around the origin as SVG, drawn here: no program or library draws for us."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path

from nanwatch.report.evidence import Graph, Operation
from nanwatch.report.figures import number_text
from nanwatch.report.layers import Arrangement, Point, arrange
from nanwatch.report.modules import Shape, select

_TITLE_CHAR, _SUBTITLE_CHAR = 7.4, 6.2
"""Widths of a character in the two fonts; wide enough for every system font."""
_MAX_CHARS = 34
_PAD, _HEADER, _MARGIN = 14.0, 34.0, 8.0
_STEPS_UP, _STEPS_DOWN = 4, 3


@dataclass(frozen=True)
class Drawing:
    """What stands inside an `<svg>`, and its size in pixels."""

    body: str
    width: int
    height: int
    label: str

    def inline(self) -> str:
        """For a page that has the styles."""
        return self._svg("")

    def standalone(self) -> str:
        """For a file of its own."""
        return self._svg(f"<style>{styles()}</style>")

    def _svg(self, head: str) -> str:
        size = f'width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}"'
        what = f'xmlns="http://www.w3.org/2000/svg" class="graph" role="img" aria-label="{escape(self.label)}"'
        return f"<svg {what} {size}>{head}{self.body}</svg>"


@cache
def styles() -> str:
    """The style sheet that drawings need."""
    return (Path(__file__).parent / "templates" / "drawing.css").read_text(encoding="utf-8")


def draw_modules(graph: Graph, phase: str | None = None) -> Drawing | None:
    """The module graph from input to loss; None when there are no modules."""
    if not graph.modules:
        return None
    shapes, edges = select(graph, phase)
    return _drawing(shapes, edges, f"Module graph of {len(graph.modules)} modules")


def draw_operations(graph: Graph) -> Drawing | None:
    """The operations around the one where the value was born; None when none is marked."""
    near = _neighbourhood(graph.operations)
    if not near:
        return None
    shapes = tuple(_operation_shape(o) for o in near)
    edges = tuple((str(i), str(o.id)) for o in near for i in o.inputs)
    return _drawing(shapes, edges, "Operations around the origin")


def _drawing(shapes: Sequence[Shape], edges: Sequence[tuple[str, str]], label: str) -> Drawing:
    painter = _Painter()
    inner = painter.measure(shapes, edges, None)
    painter.paint(shapes, None, (_MARGIN, _MARGIN))
    width, height = int(inner.width + 2 * _MARGIN + 1), int(inner.height + 2 * _MARGIN + 1)
    return Drawing("".join(painter.parts), width, height, label)


class _Painter:
    def __init__(self) -> None:
        self.parts: list[str] = []
        self._inner: dict[str | None, Arrangement] = {}
        self._sizes: dict[str, tuple[float, float]] = {}

    def measure(self, shapes: Sequence[Shape], edges: Sequence[tuple[str, str]], key: str | None) -> Arrangement:
        """Sizes from the inside outwards; `key` is the id of the box around, None for the paper."""
        for shape in shapes:
            title, subtitle = _cut(shape.title), _cut(shape.subtitle)
            text = max(len(title) * _TITLE_CHAR, len(subtitle) * _SUBTITLE_CHAR)
            if shape.children:
                inner = self.measure(shape.children, shape.edges, shape.id)
                header = len(f"{title}  {subtitle}") * _TITLE_CHAR
                size = max(inner.width, header) + 2 * _PAD, inner.height + _HEADER + _PAD
            else:
                size = max(text + 24, 84), 42.0
            self._sizes[shape.id] = size
        self._inner[key] = arrange({s.id: self._sizes[s.id] for s in shapes}, edges)
        return self._inner[key]

    def paint(self, shapes: Sequence[Shape], key: str | None, at: Point) -> None:
        inner = self._inner[key]
        marks = {s.id: "path" if s.mark != "origin" and _leads(s) else s.mark for s in shapes}
        for route in inner.routes:
            on_path = marks[route.source] in {"origin", "path"} and marks[route.target] in {"origin", "path"}
            self.parts.append(_edge(route.points, at, on_path=on_path))
        for shape in shapes:
            x, y = inner.corners[shape.id]
            self._box(shape, (at[0] + x, at[1] + y))

    def _box(self, shape: Shape, at: Point) -> None:
        width, height = self._sizes[shape.id]
        x, y = at
        kind = "group" if shape.children else "node"
        self.parts.append(f'<g class="{kind} {shape.mark}"><title>{escape(shape.tooltip)}</title>')
        if shape.stacked > 1:
            for offset in (6, 3):
                self.parts.append(_rect(x + offset, y + offset, width, height, "back"))
        self.parts.append(_rect(x, y, width, height, "box"))
        title, subtitle = escape(_cut(shape.title)), escape(_cut(shape.subtitle))
        if shape.children:
            self.parts.append(
                f'<text class="title" x="{x + _PAD:.1f}" y="{y + 21:.1f}">{title}'
                f'<tspan class="subtitle" dx="8">{subtitle}</tspan></text>'
            )
            inner = self._inner[shape.id]
            self.paint(shape.children, shape.id, (x + (width - inner.width) / 2, y + _HEADER))
        else:
            middle = x + width / 2
            self.parts.append(
                f'<text class="title" text-anchor="middle" x="{middle:.1f}" y="{y + 18:.1f}">{title}</text>'
            )
            self.parts.append(
                f'<text class="subtitle" text-anchor="middle" x="{middle:.1f}" y="{y + 33:.1f}">{subtitle}</text>'
            )
        self.parts.append("</g>")


def _leads(shape: Shape) -> bool:
    """Whether the path runs through a box that is drawn with its contents."""
    return any(c.mark in {"origin", "path"} or _leads(c) for c in shape.children)


def _edge(points: Sequence[Point], at: Point, *, on_path: bool) -> str:
    moved = [f"{x + at[0]:.1f} {y + at[1]:.1f}" for x, y in points]
    curves = "".join(f"C{','.join(moved[i : i + 3])}" for i in range(1, len(moved), 3))
    x, y = points[-1][0] + at[0], points[-1][1] + at[1]
    tip = f"M{x - 4:.1f} {y - 6:.1f}L{x:.1f} {y:.1f}L{x + 4:.1f} {y - 6:.1f}"
    return f'<path class="edge{" path" if on_path else ""}" d="M{moved[0]}{curves}{tip}"/>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7"/>'


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_CHARS else f"{text[: _MAX_CHARS - 1]}…"


def _neighbourhood(operations: Sequence[Operation]) -> list[Operation]:
    """The birth, what led to it and what came of it, a few steps each way."""
    by_id = {o.id: o for o in operations}
    births = {o.id for o in operations if o.birth}
    users: dict[int, list[int]] = {}
    for o in operations:
        for i in o.inputs:
            users.setdefault(i, []).append(o.id)
    near, up, down = set(births), set(births), set(births)
    for _ in range(_STEPS_UP):
        up = {i for o in up for i in by_id[o].inputs if i in by_id}
        near |= up
    for _ in range(_STEPS_DOWN):
        down = {u for o in down for u in users.get(o, ())}
        near |= down
    return [o for o in operations if o.id in near]


def _operation_shape(o: Operation) -> Shape:
    where = f"line {o.line}" if o.line is not None else o.module or ""
    title = f"{o.op.removeprefix('aten::')}{' (backward)' if o.backward else ''}"
    value = {"nan": "NaN", "inf": "∞"}.get(o.value, number_text(o.absmax))
    mark = "origin" if o.birth else "path" if o.value == "nan" else "bad" if o.value == "inf" else ""
    tooltip = f"{o.op} in {o.module or 'code outside the model'}, {o.file or 'no file'}:{o.line}"
    return Shape(str(o.id), title, f"{where} · max {value}", tooltip, mark)

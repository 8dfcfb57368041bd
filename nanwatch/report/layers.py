"""Layered layout of a directed graph: who comes after whom from top to bottom, neighbours close to each other.

The three classic steps of Sugiyama, Tagawa and Toda (1981): layers by longest path, order within a layer by the
neighbours' mean position, straight or curved routes. The edge that closes a loop is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

Size = tuple[float, float]
Point = tuple[float, float]

_SWEEPS = 6
_LANE = 16.0


@dataclass(frozen=True)
class Route:
    """An edge as cubic Bézier pieces: the start, then three points for each piece."""

    source: str
    target: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Arrangement:
    """Upper left corners of the nodes, and the size of the whole."""

    corners: dict[str, Point]
    routes: tuple[Route, ...]
    width: float
    height: float


def arrange(
    sizes: Mapping[str, Size],
    edges: Sequence[tuple[str, str]],
    *,
    gap_x: float = 22,
    gap_y: float = 26,
    max_width: float = 860,
) -> Arrangement:
    """Place nodes of the given sizes so that edges point downwards."""
    known = [(a, b) for a, b in dict.fromkeys(edges) if a in sizes and b in sizes]
    nodes = execution_order(list(sizes), known)
    order = {node: i for i, node in enumerate(nodes)}
    wires = [(a, b) for a, b in known if order[a] < order[b]]
    rows = _wrapped(_ordered(_ranked(nodes, wires), wires), sizes, gap_x, max_width)
    widths = [sum(sizes[n][0] for n in row) + gap_x * (len(row) - 1) for row in rows]
    widest = max(widths, default=0)
    corners: dict[str, Point] = {}
    tops: list[float] = []
    y = 0.0
    for row, width in zip(rows, widths, strict=True):
        x, height = (widest - width) / 2, max(sizes[n][1] for n in row)
        for node in row:
            corners[node] = x, y + (height - sizes[node][1]) / 2
            x += sizes[node][0] + gap_x
        tops.append(y)
        y += height + gap_y
    row_of = {node: i for i, row in enumerate(rows) for node in row}
    spans = [((widest - w) / 2, (widest + w) / 2) for w in widths]
    routes = _routes(wires, sizes, corners, row_of, spans, gap_y)
    left = min([0.0, *(x for r in routes for x, _ in r.points)])
    right = max([widest, *(x for r in routes for x, _ in r.points)])
    return Arrangement(
        {n: (x - left, y) for n, (x, y) in corners.items()},
        tuple(Route(r.source, r.target, tuple((x - left, y) for x, y in r.points)) for r in routes),
        right - left,
        max(0.0, y - gap_y),
    )


def execution_order(nodes: Sequence[str], edges: Sequence[tuple[str, str]]) -> list[str]:
    """The nodes, each after those that it needs; a loop is entered at the node that stands first in `nodes`.

    Source: Kahn, Topological sorting of large networks, 1962.
    """
    place = {node: i for i, node in enumerate(nodes)}
    needs: dict[str, set[str]] = {node: set() for node in nodes}
    feeds: dict[str, set[str]] = {node: set() for node in nodes}
    for a, b in edges:
        if a != b and a in place and b in place:
            needs[b].add(a)
            feeds[a].add(b)
    waiting = set(nodes)
    ready = [(place[n], n) for n in nodes if not needs[n]]
    out: list[str] = []
    while waiting:
        _, node = heappop(ready) if ready else min((place[n], n) for n in waiting)
        if node not in waiting:
            continue
        waiting.discard(node)
        out.append(node)
        for following in feeds[node]:
            needs[following].discard(node)
            if following in waiting and not needs[following]:
                heappush(ready, (place[following], following))
    return out


def _ranked(nodes: list[str], wires: list[tuple[str, str]]) -> list[list[str]]:
    """Nodes by their longest way from a source; a source stands right above the first node that needs it."""
    before: dict[str, list[str]] = {n: [] for n in nodes}
    after: dict[str, list[str]] = {n: [] for n in nodes}
    for a, b in wires:
        before[b].append(a)
        after[a].append(b)
    rank: dict[str, int] = {}
    for node in nodes:
        rank[node] = max((rank[p] + 1 for p in before[node]), default=0)
    for node in nodes:
        if not before[node] and after[node]:
            rank[node] = min(rank[n] for n in after[node]) - 1
    rows: dict[int, list[str]] = {}
    for node in nodes:
        rows.setdefault(rank[node], []).append(node)
    return [rows[r] for r in sorted(rows)]


def _ordered(rows: list[list[str]], wires: list[tuple[str, str]]) -> list[list[str]]:
    neighbours: dict[str, list[str]] = {n: [] for row in rows for n in row}
    for a, b in wires:
        neighbours[a].append(b)
        neighbours[b].append(a)
    place = {n: i - (len(row) - 1) / 2 for row in rows for i, n in enumerate(row)}
    for sweep in range(_SWEEPS):
        for row in rows if sweep % 2 == 0 else reversed(rows):
            mean = {n: sum(place[m] for m in near) / len(near) if (near := neighbours[n]) else place[n] for n in row}
            row.sort(key=mean.__getitem__)
            place.update({n: i - (len(row) - 1) / 2 for i, n in enumerate(row)})
    return rows


def _wrapped(rows: list[list[str]], sizes: Mapping[str, Size], gap_x: float, max_width: float) -> list[list[str]]:
    """Rows that are too wide, in several."""
    out: list[list[str]] = []
    for row in rows:
        width, line = 0.0, list[str]()
        for node in row:
            if line and width + sizes[node][0] > max_width:
                out.append(line)
                width, line = 0.0, []
            line.append(node)
            width += sizes[node][0] + gap_x
        out.append(line)
    return out


def _routes(
    wires: list[tuple[str, str]],
    sizes: Mapping[str, Size],
    corners: Mapping[str, Point],
    row_of: Mapping[str, int],
    spans: list[tuple[float, float]],
    gap_y: float,
) -> list[Route]:
    routes: list[Route] = []
    lanes: list[tuple[bool, int, int]] = []
    for a, b in wires:
        start = corners[a][0] + sizes[a][0] / 2, corners[a][1] + sizes[a][1]
        end = corners[b][0] + sizes[b][0] / 2, corners[b][1]
        if row_of[b] - row_of[a] <= 1:
            middle = (start[1] + end[1]) / 2
            routes.append(Route(a, b, (start, (start[0], middle), (end[0], middle), end)))
            continue
        # An edge over several rows runs beside them, each in a lane of its own.
        first, last = row_of[a] + 1, row_of[b] - 1
        on_left = len(lanes) % 2 == 1
        taken = sum(1 for side, lo, hi in lanes if side == on_left and lo <= last and first <= hi)
        lanes.append((on_left, first, last))
        left, right = min(spans[r][0] for r in range(first, last + 1)), max(spans[r][1] for r in range(first, last + 1))
        x = left - _LANE * (taken + 1) if on_left else right + _LANE * (taken + 1)
        top, bottom = start[1] + gap_y, end[1] - gap_y
        down = (x, (2 * top + bottom) / 3), (x, (top + 2 * bottom) / 3), (x, bottom)
        routes.append(
            Route(a, b, (start, (start[0], top), (x, start[1]), (x, top), *down, (x, end[1]), (end[0], bottom), end))
        )
    return routes

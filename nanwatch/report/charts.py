"""Line charts as inline SVG, drawn by hand: nothing to load, crisp at every size, readable in dark and light.

A non-finite point is a gap in the line with a cross at the upper edge, because a chart that leaves it out hides the
very thing that the page is about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from nanwatch.report.figures import number_text

WIDTH, HEIGHT = 460, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 16, 26
_LOG_FROM = 50.0
"""Ratio of the largest to the smallest value from which a logarithmic scale says more."""


@dataclass(frozen=True)
class Series:
    """One line. Where `measured_T` is False there was no value; where it is True, a non-finite value was a bad one."""

    name: str
    values_T: NDArray[np.float64]
    measured_T: NDArray[np.bool_]


@dataclass(frozen=True)
class _Scale:
    low: float
    high: float
    is_log: bool

    def y(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.is_log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)


def line_chart(
    steps_T: NDArray[np.int64],
    series: Sequence[Series],
    *,
    label: str,
    mark_step: int | None = None,
    x_name: str = "step",
    limits: Sequence[tuple[float, str]] = (),
) -> str:
    """An `<svg>` of the series over the steps; `mark_step` gets a vertical line, each of `limits` a horizontal one."""
    finite = np.concatenate([s.values_T[s.measured_T & np.isfinite(s.values_T)] for s in series])
    scale = _scale(finite, [value for value, _ in limits])
    first, last = _ends(steps_T, mark_step)
    parts = [_grid(scale), _x_axis(first, last, x_name)]
    for value, name in limits:
        y = scale.y(value)
        parts.append(f'<path class="limit" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(
            f'<text class="limit-name" x="{WIDTH - _RIGHT}" y="{y - 4:.1f}" text-anchor="end">{escape(name)}</text>'
        )
    if mark_step is not None and first <= mark_step <= last:
        parts.append(_mark(_x(mark_step, first, last)))
    for i, one in enumerate(series):
        parts.append(_line(steps_T, one, scale, i, (first, last)))
    parts += [_crosses(steps_T, one, (first, last)) for one in series[:1]]
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return f"{head}{''.join(parts)}</svg>"


def _ends(steps_T: NDArray[np.int64], mark_step: int | None) -> tuple[int, int]:
    """First and last step of the axis: a marked step right after the last known one belongs on it."""
    first, last = int(steps_T[0]), int(steps_T[-1])
    is_next = mark_step is not None and last < mark_step <= last + max(2, (last - first) // 10)
    return first, mark_step if is_next and mark_step is not None else last


def _scale(finite: NDArray[np.float64], also: Sequence[float]) -> _Scale:
    values = np.concatenate([finite, np.array(also, dtype=np.float64)])
    if not values.size:
        return _Scale(0.0, 1.0, is_log=False)
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low >= _LOG_FROM:
        return _Scale(10 ** math.floor(math.log10(low)), 10 ** math.ceil(math.log10(high) - 1e-9), is_log=True)
    if high == low:
        pad = abs(high) * 0.1 or 1.0
        return _Scale(low - pad, high + pad, is_log=False)
    ticks = _linear_ticks(low, high)
    return _Scale(min(low, ticks[0]), max(high, ticks[-1]), is_log=False)


def _grid(scale: _Scale) -> str:
    parts: list[str] = []
    for tick in _ticks(scale):
        y = scale.y(tick)
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{number_text(tick)}</text>')
    return "".join(parts)


def _ticks(scale: _Scale) -> list[float]:
    if not scale.is_log:
        return [t for t in _linear_ticks(scale.low, scale.high) if scale.low <= t <= scale.high]
    low, high = round(math.log10(scale.low)), round(math.log10(scale.high))
    every = max(1, math.ceil((high - low) / 4))
    return [10.0**e for e in range(low, high + 1, every)]


def _linear_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that reach around [low, high]."""
    raw = (high - low) / 4
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    start, end = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 12) if step > 1e-9 else i * step for i in range(start, end + 1)]


def _x_axis(first: int, last: int, name: str) -> str:
    y = HEIGHT - 8
    ends = f'<text class="tick" x="{_LEFT}" y="{y}">{name} {first:,}</text>'
    return ends + f'<text class="tick" x="{WIDTH - _RIGHT}" y="{y}" text-anchor="end">{last:,}</text>'


def _x(step: float, first: int, last: int) -> float:
    return _LEFT + (step - first) / max(1, last - first) * (WIDTH - _LEFT - _RIGHT)


def _mark(x: float) -> str:
    return f'<path class="fault" d="M{x:.1f} {_TOP - 8}V{HEIGHT - _BOTTOM}"/>'


def _line(steps_T: NDArray[np.int64], one: Series, scale: _Scale, index: int, ends: tuple[int, int]) -> str:
    first, last = ends
    points: list[str] = []
    dots: list[str] = []
    pen = "M"
    good_T = one.measured_T & np.isfinite(one.values_T)
    if scale.is_log:
        good_T &= one.values_T > 0
    for t in range(len(steps_T)):
        if not good_T[t]:
            pen = "M"
            continue
        x, y = f"{_x(float(steps_T[t]), first, last):.1f}", f"{scale.y(float(one.values_T[t])):.1f}"
        lonely = pen == "M" and (t + 1 == len(steps_T) or not good_T[t + 1])
        if lonely:
            dots.append(f'<circle class="dot s{index}" cx="{x}" cy="{y}" r="2.5"/>')
        points.append(f"{pen}{x} {y}")
        pen = "L"
    return f'<path class="line s{index}" d="{"".join(points)}"><title>{escape(one.name)}</title></path>{"".join(dots)}'


def _crosses(steps_T: NDArray[np.int64], one: Series, ends: tuple[int, int]) -> str:
    first, last = ends
    bad = np.flatnonzero(one.measured_T & ~np.isfinite(one.values_T))
    out: list[str] = []
    y = float(_TOP - 4)
    for run in np.split(bad, np.flatnonzero(np.diff(bad) != 1) + 1):
        if not run.size:
            continue
        x, end = (_x(float(steps_T[t]), first, last) for t in (run[0], run[-1]))
        what = f"{escape(one.name)} is {number_text(float(one.values_T[run[0]]))} at {int(steps_T[run[0]]):,}"
        # Crosses on top of each other are a smear: a run of bad points gets one cross and a bar to its end.
        bar = f"M{x:.1f} {y:.1f}H{end:.1f}" if end > x else ""
        d = f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8{bar}"
        out.append(f'<path class="cross" d="{d}"><title>{what}</title></path>')
    return "".join(out)

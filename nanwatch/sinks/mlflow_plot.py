"""The one picture in a run's description: loss and gradient norm over the steps, the first incident marked.

Drawn by hand as SVG: small, the same everywhere, and no plotting library in the agent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, PANEL, LEFT, RIGHT, TOP, GAP = 760, 170, 70, 20, 30, 34

Curve = Sequence[tuple[int, float]]
"""(step, value), sorted by step, finite values only."""


def draw(title: str, curves: Sequence[tuple[str, Curve]], incident_step: int | None) -> str:
    """An SVG with one panel for each named curve. A curve over more than two decades gets a logarithmic axis."""
    steps = [step for _, curve in curves for step, _ in curve] + ([] if incident_step is None else [incident_step])
    first, last = (min(steps), max(steps)) if steps else (0, 1)
    height = TOP + len(curves) * (PANEL + GAP)
    size = f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="19" font-size="14" font-weight="bold" fill="#222">{escape(title)}</text>',
    ]
    for i, (name, curve) in enumerate(curves):
        parts += _panel(name, curve, first, max(last, first + 1), TOP + i * (PANEL + GAP), incident_step)
    return "\n".join([*parts, "</svg>"])


def _panel(name: str, curve: Curve, first: int, last: int, top: int, incident_step: int | None) -> list[str]:
    values = [value for _, value in curve]
    is_log = bool(values) and min(values) > 0 and max(values) / min(values) > 100
    scaled = [math.log10(v) if is_log else v for v in values]
    low, high = (min(scaled), max(scaled)) if scaled else (0.0, 1.0)
    if high - low < 1e-12 * max(abs(high), 1.0):
        low, high = low - 0.5, high + 0.5

    def x(step: float) -> float:
        return LEFT + (step - first) / (last - first) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return top + 16 + (high - value) / (high - low) * (PANEL - 16)

    parts = [f'<text x="{LEFT}" y="{top + 10}" fill="#222">{escape(name)}{" (log scale)" if is_log else ""}</text>']
    for at in (low, (low + high) / 2, high):
        parts.append(f'<path d="M{LEFT} {y(at):.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        label = f"{10**at if is_log else at:.3g}"
        parts.append(f'<text x="{LEFT - 6}" y="{y(at) + 4:.1f}" text-anchor="end" fill="#555">{label}</text>')
    for step, anchor in ((first, "start"), (last, "end")):
        parts.append(
            f'<text x="{x(step):.1f}" y="{top + PANEL + 15}" text-anchor="{anchor}" fill="#555">step {step}</text>'
        )
    line = " ".join(f"{x(step):.1f},{y(value):.1f}" for (step, _), value in zip(curve, scaled, strict=True))
    parts.append(f'<polyline points="{line}" fill="none" stroke="#1668c7" stroke-width="1.5"/>')
    if incident_step is not None:
        parts.append(
            f'<path d="M{x(incident_step):.1f} {top + 16}V{top + PANEL}" stroke="#c22" stroke-width="1.5" '
            'stroke-dasharray="5 3"/>'
        )
        anchor = "end" if x(incident_step) > WIDTH / 2 else "start"
        shift = -5 if anchor == "end" else 5
        parts.append(
            f'<text x="{x(incident_step) + shift:.1f}" y="{top + 28}" text-anchor="{anchor}" fill="#c22">'
            f"incident, step {incident_step}</text>"
        )
    return parts

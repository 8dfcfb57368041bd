"""Gradient size of every tensor over the last steps, as a small picture: what grew, what died, where it began.

Legend: K tensors (rows), T steps (columns).
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from nanwatch.report.figures import number_text
from nanwatch.report.history import History
from nanwatch.report.png import png_data_uri

MAX_ROWS = 48
_ROW_PX, _LABEL_PX, _CELLS_PX, _TOP_PX = 15, 270, 560, 4
_STOPS = np.array(
    [[0.0, 40, 46, 88], [0.3, 55, 100, 140], [0.55, 90, 160, 150], [0.8, 215, 200, 120], [1.0, 250, 240, 210]]
)
"""Share, red, green, blue: dark is small. Even steps in lightness, for print and for the colour-blind."""
_BAD = np.array([226, 61, 40], dtype=np.uint8)
_NOTHING = np.array([128, 128, 128], dtype=np.uint8)


@dataclass(frozen=True)
class HeatMap:
    """An `<svg>`, the legend's colours and its ends."""

    svg: str
    legend_uri: str
    low: str
    high: str
    left_out: int


def heat_map(history: History) -> HeatMap | None:
    """The heat map of a history; None when it has no gradient with a size."""
    sizes_KT = np.where(history.l2_KT > 0, history.l2_KT, np.nan)
    finite = sizes_KT[np.isfinite(sizes_KT)]
    if not finite.size:
        return None
    rows = _rows(history)
    low, high = (float(np.log10(np.quantile(finite, q))) for q in (0.01, 1.0))
    high = high if high > low else low + 1
    with np.errstate(invalid="ignore"):
        share_KT = np.clip((np.log10(sizes_KT[rows]) - low) / (high - low), 0, 1)
    pixels = _colours(share_KT)
    pixels[np.isnan(share_KT)] = _NOTHING
    pixels[history.bad_KT[rows] > 0] = _BAD
    ramp = _colours(np.linspace(0, 1, 64)[None, :])
    return HeatMap(
        _svg(history, rows, png_data_uri(pixels)),
        png_data_uri(ramp),
        number_text(10**low),
        number_text(10**high),
        len(history.tensors_K) - len(rows),
    )


def _rows(history: History) -> list[int]:
    """All tensors in the model's order; of too many, those that went bad or were largest."""
    count = len(history.tensors_K)
    if count <= MAX_ROWS:
        return list(range(count))
    worst = np.nan_to_num(history.l2_KT, nan=0.0, posinf=0.0).max(axis=1)
    order = np.lexsort((-worst, -(history.bad_KT.sum(axis=1) > 0).astype(int)))
    return sorted(int(k) for k in order[:MAX_ROWS])


def _colours(share: NDArray[np.float64]) -> NDArray[np.uint8]:
    known = np.nan_to_num(share)
    channels = [np.interp(known, _STOPS[:, 0], _STOPS[:, c]) for c in (1, 2, 3)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def _svg(history: History, rows: list[int], uri: str) -> str:
    height = len(rows) * _ROW_PX + _TOP_PX
    width = _LABEL_PX + _CELLS_PX
    labels = "".join(
        f'<text class="tick" x="{_LABEL_PX - 8}" y="{_TOP_PX + i * _ROW_PX + 11}" text-anchor="end">'
        f"{escape(_tail(history.tensors_K[k]))}<title>{escape(history.tensors_K[k])}</title></text>"
        for i, k in enumerate(rows)
    )
    picture = (
        f'<image class="cells" x="{_LABEL_PX}" y="{_TOP_PX}" width="{_CELLS_PX}" height="{len(rows) * _ROW_PX}" '
        f'preserveAspectRatio="none" href="{uri}"/>'
    )
    first, last = int(history.steps_T[0]), int(history.steps_T[-1])
    ends = (
        f'<text class="tick" x="{_LABEL_PX}" y="{height + 16}">step {first:,}</text>'
        f'<text class="tick" x="{width}" y="{height + 16}" text-anchor="end">{last:,}</text>'
    )
    label = f"Gradient norms of {len(rows)} tensors from step {first} to {last}"
    return (
        f'<svg class="heat" width="{width}" height="{height + 24}" viewBox="0 0 {width} {height + 24}" role="img" '
        f'aria-label="{label}">{labels}{picture}{ends}</svg>'
    )


def _tail(name: str) -> str:
    return name if len(name) <= 38 else f"…{name[-37:]}"

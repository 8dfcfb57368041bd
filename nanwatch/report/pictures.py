"""The offending rows as people look at them: pictures as pictures, everything else as numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from nanwatch.report.evidence import Row
from nanwatch.report.figures import is_bad, number_text, shape_text
from nanwatch.report.png import png_data_uri

_MAX_CELLS = 80
_EQUAL_CELLS = 10
"""Enough of a row in which every value is the same."""
_MIN_SIDE = 8
_BAD_PIXEL = (230, 60, 40)


@dataclass(frozen=True)
class Cell:
    """One number of a table. `position` says where in the row it stands; a gap comes before it where `after_gap`."""

    position: str
    text: str
    is_bad: bool
    after_gap: bool


@dataclass(frozen=True)
class RowView:
    """One offending row, ready for the page."""

    leaf: str
    row: int
    shape: str
    dtype: str
    summary: str
    bad: int
    picture: str | None
    """Data URI."""
    width: int
    height: int
    cells: tuple[Cell, ...]
    left_out: int


def row_view(row: Row) -> RowView:
    """How a row is shown."""
    values = [math.nan if v is None else v for v in row.values]
    bad = sum(1 for v in values if is_bad(v))
    size = _picture_size(row, len(values))
    picture = _picture(values, size) if size is not None else None
    cells = () if picture else _cells(values, _numbered(row))
    _, height, width = size or (0, 0, 0)
    total = math.prod(row.shape)
    return RowView(
        row.leaf, row.row, shape_text(row.shape), row.dtype, _summary(values, total), bad, picture,
        width, height, cells, max(total, len(values)) - len(cells) if cells else 0,
    )  # fmt: skip


def _numbered(row: Row) -> tuple[int, ...]:
    return row.values_shape or row.shape


def _picture_size(row: Row, count: int) -> tuple[int, int, int] | None:
    """Channels, height and width, when the row looks like a picture of which every pixel is here."""
    shape = _numbered(row)
    if len(shape) == 2:
        shape = (1, *shape)
    if len(shape) != 3 or not row.dtype.startswith(("float", "bfloat", "uint8", "int")):
        return None
    channels, height, width = shape
    if channels not in {1, 3} or min(height, width) < _MIN_SIDE or count != channels * height * width:
        return None
    return channels, height, width


def _picture(values: list[float], size: tuple[int, int, int]) -> str:
    planes_CHW = np.array(values, dtype=np.float64).reshape(size)
    bad_HW = ~np.isfinite(planes_CHW).all(axis=0)
    finite = planes_CHW[np.isfinite(planes_CHW)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    grey_CHW = np.nan_to_num((planes_CHW - low) / ((high - low) or 1.0), nan=0.0, posinf=1.0, neginf=0.0)
    pixels_HWC = np.moveaxis((np.clip(grey_CHW, 0, 1) * 255).astype(np.uint8), 0, -1)
    pixels_HW3 = np.repeat(pixels_HWC, 3, axis=-1) if size[0] == 1 else pixels_HWC.copy()
    pixels_HW3[bad_HW] = _BAD_PIXEL
    return png_data_uri(pixels_HW3)


def _cells(values: list[float], shape: tuple[int, ...]) -> tuple[Cell, ...]:
    """The first values and every bad one, as far as there is room."""
    bad = [i for i, v in enumerate(values) if is_bad(v)]
    head = _MAX_CELLS - min(len(bad), _MAX_CELLS // 2)
    if len(values) == 1:
        return ()
    if len({number_text(v) for v in values}) == 1:
        bad, head = [], _EQUAL_CELLS
    chosen = sorted({*range(min(head, len(values))), *bad[: _MAX_CELLS // 2]})
    return tuple(
        Cell(_position(i, shape), number_text(values[i]), is_bad(values[i]), after_gap=n > 0 and i != chosen[n - 1] + 1)
        for n, i in enumerate(chosen)
    )


def _position(index: int, shape: tuple[int, ...]) -> str:
    if len(shape) <= 1 or math.prod(shape) <= index:
        return str(index)
    out: list[int] = []
    for size in reversed(shape):
        out.append(index % size)
        index //= size
    return ", ".join(map(str, reversed(out)))


def _summary(values: list[float], total: int) -> str:
    finite = [v for v in values if not is_bad(v)]
    if len(values) == total == 1:
        return f"value {number_text(values[0])}"
    if not finite:
        return "no finite value"
    seen = "" if len(values) == total else f" of the {len(values):,} values shown"
    if min(finite) == max(finite):
        every = "every value" if len(finite) == len(values) else "every finite value"
        return f"{every}{seen} is {number_text(finite[0])}"
    return f"{number_text(min(finite))} to {number_text(max(finite))}{seen}"

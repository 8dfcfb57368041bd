"""The steps before the incident, out of the agent's table.

Legend: T steps, K tensors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GradientRange:
    """The gradient of one tensor in the last step before the incident; numbers are over the finite elements."""

    tensor: str
    l2: float
    min: float
    max: float
    nonfinite: int | None
    """Elements that were not finite in the incident's own step; None where that step is not in the table."""


@dataclass(frozen=True)
class History:
    """One rank's steps in order. A value that was not measured is absent from `measured`."""

    steps_T: NDArray[np.int64]
    columns: dict[str, Floats]
    """Name of a column -> its T values; NaN where it is NaN or was not measured."""
    measured: dict[str, NDArray[np.bool_]]
    tensors_K: tuple[str, ...]
    l2_KT: Floats
    bad_KT: NDArray[np.int64]
    """Non-finite elements."""
    extremes_KT: tuple[Floats, Floats]

    def has(self, column: str) -> bool:
        """Whether the column was measured in any step."""
        return column in self.measured and bool(self.measured[column].any())

    def varies(self, column: str) -> bool:
        """Whether its finite values are not all the same."""
        if not self.has(column):
            return False
        finite = self.columns[column][np.isfinite(self.columns[column])]
        return bool(finite.size and finite.min() != finite.max())

    def ranges_before(self, step: int) -> list[GradientRange]:
        """The gradients of the last step before `step`, with what became of them in it; the worst first."""
        earlier, now = np.flatnonzero(self.steps_T < step), np.flatnonzero(self.steps_T == step)
        if not earlier.size:
            return []
        t, at = int(earlier[-1]), int(now[-1]) if now.size else None
        low, high = self.extremes_KT
        out = [
            GradientRange(
                name,
                float(self.l2_KT[k, t]),
                float(low[k, t]),
                float(high[k, t]),
                None if at is None else int(self.bad_KT[k, at]),
            )
            for k, name in enumerate(self.tensors_K)
            if not math.isnan(self.l2_KT[k, t]) or (at is not None and self.bad_KT[k, at])
        ]
        return sorted(out, key=lambda r: (-(r.nonfinite or 0), -np.nan_to_num(r.l2)))


_STEP_COLUMNS = ("loss", "grad_norm", "grad_norm_clipped", "lr", "loss_scale", "step_time_s")


def read_history(table: pa.Table, rank: int) -> History | None:
    """The history of one rank; None when the table has no step of it."""
    table = table.filter(pc.equal(table["rank"], rank)) if "rank" in table.column_names else table
    tensor = table["tensor"].cast(pa.string())
    per_step = table.filter(pc.equal(tensor, "")).sort_by("step")
    if not per_step.num_rows:
        return None
    steps = per_step["step"].to_numpy().astype(np.int64)
    columns = {name: _floats(per_step[name]) for name in _STEP_COLUMNS if name in per_step.column_names}
    measured = {name: per_step[name].is_valid().to_numpy().astype(bool) for name in columns}
    rows = table.filter(pc.not_equal(tensor, ""))
    names = rows["tensor"].cast(pa.string()).to_pylist()
    order = {name: k for k, name in enumerate(dict.fromkeys(names))}
    at_T = {int(step): t for t, step in enumerate(steps)}
    k_of = np.array([order[n] for n in names], dtype=np.int64)
    t_of = np.array([at_T.get(s, -1) for s in rows["step"].to_pylist()], dtype=np.int64)
    known = t_of >= 0

    def matrix(values: Any, fill: float) -> Any:
        out = np.full((len(order), len(steps)), fill, dtype=values.dtype)
        out[k_of[known], t_of[known]] = values[known]
        return out

    bad = sum(np.nan_to_num(_floats(rows[c])) for c in ("nan", "pos_inf", "neg_inf") if c in rows.column_names)
    bad = bad if isinstance(bad, np.ndarray) else np.zeros(len(names))
    return History(
        steps, columns, measured, tuple(order), matrix(_floats(rows["l2"]), np.nan), matrix(bad.astype(np.int64), 0),
        (matrix(_floats(rows["min"]), np.nan), matrix(_floats(rows["max"]), np.nan)),
    )  # fmt: skip


def _floats(column: Any) -> Floats:
    return np.array(pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False), dtype=np.float64)

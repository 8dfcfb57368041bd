"""Statistics of blocks of the model: the few keys that a person can look at, out of thousands of tensors.

Shapes: K tensors, S statistics (records.STATISTICS), G groups of adjacent blocks, B block statistics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nanwatch.records import STATISTICS, NamesRecord
from nanwatch.sinks.mlflow_names import KeyNames
from nanwatch.sinks.mlflow_windows import Kind

BLOCK_STATISTICS: tuple[tuple[str, Kind], ...] = (
    ("grad_norm_by_block", "last"),
    ("grad_norm_max_by_block", "max"),
    ("zero_share_by_block", "last"),
    ("grad_absmax_by_block", "max"),
    ("grad_mean_by_block", "last"),
)
"""Most telling first: with many blocks the last ones are left out."""

_FEWEST = 2
_L2, _MIN, _MAX, _SUM, _ZEROS, _FIRST_BAD = (STATISTICS.index(s) for s in ("l2", "min", "max", "sum", "zeros", "nan"))


def global_grad_norm(stats_KS: NDArray[np.float32]) -> float:
    """Euclidean norm over all tensors that have a gradient; NaN when any of it is non-finite or there is none."""
    l2_K = stats_KS[:, _L2].astype(np.float64)
    seen_K = ~np.isnan(l2_K)
    if not seen_K.any() or _bad(stats_KS).any():
        return float("nan")
    return float(np.sqrt(np.square(l2_K[seen_K]).sum()))


class BlockStatistics:
    """What one NamesRecord's tensors become: `keys` and `kinds`, and with `measure` their values at a step.

    `budget` is how many keys there may be; with more blocks than it allows, neighbours are merged.
    """

    def __init__(self, names: NamesRecord, key_names: KeyNames, budget: int) -> None:
        blocks = list(dict.fromkeys(names.blocks))
        per_block = min(max(budget // max(len(blocks), 1), _FEWEST), len(BLOCK_STATISTICS))
        groups = max(min(len(blocks), budget // per_block), 1)
        group_of = {block: i * groups // len(blocks) for i, block in enumerate(blocks)}
        self.tensors = len(names.names)
        self._groups = groups
        self._statistics = BLOCK_STATISTICS[:per_block]
        self._group_K = np.array([group_of[b] for b in names.blocks], dtype=np.intp)
        self._numel_K = np.array(names.numels, dtype=np.float64)
        labels = _labels(blocks, group_of, groups)
        self.keys = [key_names.key(f"nanwatch/{name}", label) for name, _ in self._statistics for label in labels]
        self.kinds: list[Kind] = [kind for _, kind in self._statistics for _ in labels]

    def measure(self, stats_KS: NDArray[np.float32]) -> NDArray[np.float64]:
        """Values of `keys`, NaN where a tensor of the block is non-finite or none has a gradient."""
        stats = stats_KS.astype(np.float64)
        seen_K = ~np.isnan(stats[:, _L2])
        used_G = self._sum(seen_K) > 0
        used_G &= self._sum(_bad(stats_KS)) == 0
        numel_G = self._sum(self._numel_K * seen_K)
        norm_G = np.sqrt(self._sum(np.square(np.where(seen_K, stats[:, _L2], 0))))
        absmax_G = np.full(self._groups, -np.inf)
        peak_K = np.maximum(np.abs(stats[:, _MIN]), np.abs(stats[:, _MAX]))
        np.maximum.at(absmax_G, self._group_K, np.where(seen_K & ~np.isnan(peak_K), peak_K, -np.inf))
        counted_K = seen_K & ~np.isnan(stats[:, _ZEROS])
        with np.errstate(invalid="ignore", divide="ignore"):
            values = {
                "grad_norm_by_block": norm_G,
                "grad_norm_max_by_block": norm_G,
                "zero_share_by_block": self._sum(np.where(counted_K, stats[:, _ZEROS], 0))
                / self._sum(self._numel_K * counted_K),
                "grad_absmax_by_block": absmax_G,
                "grad_mean_by_block": self._sum(np.where(seen_K, stats[:, _SUM], 0)) / numel_G,
            }
        values_BG = np.stack([values[name] for name, _ in self._statistics])
        values_BG[:, ~used_G] = np.nan
        values_BG[~np.isfinite(values_BG)] = np.nan
        flat: NDArray[np.float64] = values_BG.reshape(-1)
        return flat

    def _sum(self, of_K: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(self._group_K, weights=of_K, minlength=self._groups).astype(np.float64)


def _bad(stats_KS: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which tensors hold a non-finite element, shape (K,)."""
    counts = np.nan_to_num(stats_KS[:, _FIRST_BAD:], nan=0.0)
    bad: NDArray[np.bool_] = (counts > 0).any(axis=1) | np.isinf(stats_KS[:, _L2])
    return bad


def _labels(blocks: list[str], group_of: dict[str, int], groups: int) -> list[str]:
    labels = []
    for group in range(groups):
        members = [b or "model" for b in blocks if group_of[b] == group] or ["model"]
        labels.append(members[0] if len(members) == 1 else f"{members[0]} to {members[-1]}")
    return labels

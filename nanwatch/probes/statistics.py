"""Gradients -> `stats_KS`: K tensors x the columns of `records.STATISTICS`, on the host.

On the CPU one `_foreach_norm`, then one pass for minimum and maximum and one for the sum (why these: the inf-norm costs
six times as much). On a device the same calls are queued and read back together, once a step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from nanwatch.records import STATISTICS

S = len(STATISTICS)
_L2, _MIN, _MAX, _SUM, _ZEROS, _NAN, _POS_INF, _NEG_INF = range(S)


def measure(
    gradients_K: Sequence[torch.Tensor | None], *, count_zeros: bool, exact: bool = True
) -> tuple[NDArray[np.float32], list[int]]:
    """Statistics of each gradient, and the rows that hold a non-finite element.

    Shape:  K gradients or None -> (K, S) float32. A None is a row of NaN. Without `exact` only the NaN of bad rows
            are counted: after the onset every row is bad at every step, and an exact count takes ten passes.
    Cost:   three reads of the gradients and one synchronisation; the exact counts only for bad rows.
    """
    stats_KS = np.full((len(gradients_K), S), np.nan, dtype=np.float32)
    present = [k for k, g in enumerate(gradients_K) if g is not None]
    if not present:
        return stats_KS, []
    with torch.no_grad():
        values = [plain(g) for g in gradients_K if g is not None]
        rows, filled = [], []
        for k, value in zip(present, values, strict=True):
            if value.numel():
                rows.append(k)
                filled.append(value)
            else:
                stats_KS[k] = 0
        if filled:
            _fill(stats_KS, rows, filled, count_zeros=count_zeros)
        by_row = dict(zip(rows, filled, strict=True))
        suspects = [k for k in rows if not np.isfinite(stats_KS[k, :_ZEROS]).all()]
        fill = _fill_exactly if exact else _fill_roughly
        bad = [k for k in suspects if fill(stats_KS[k], by_row[k])]
    return stats_KS, bad


def which_nonfinite(tensors: Sequence[torch.Tensor]) -> list[int]:
    """Which of the tensors hold a non-finite element. Cost: one read each; the sum is the cheapest pass there is."""
    with torch.no_grad():
        values = [plain(t) for t in tensors]
        rows = [i for i, v in enumerate(values) if v.numel() and (v.is_floating_point() or v.is_complex())]
        if not rows:
            return []
        sums = torch.stack([values[i].sum(dtype=_accumulator(values[i])) for i in rows]).tolist()
        return [i for i, s in zip(rows, sums, strict=True) if not np.isfinite(s) and count_nonfinite(values[i])]


def count_nonfinite(tensor: torch.Tensor) -> int:
    """Elements that are NaN or infinite."""
    value = plain(tensor)
    if not value.is_floating_point():
        return 0
    return int(value.numel() - torch.isfinite(value).sum())


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """A strided real tensor with the same elements: values of a sparse one, parts of a complex one, the local shard."""
    value = tensor.detach()
    to_local = getattr(value, "to_local", None)
    if to_local is not None:
        value = to_local()
    if value.layout == torch.sparse_coo:
        value = value.coalesce().values()
    elif value.layout != torch.strided:
        value = value.values()
    if value.is_complex():
        value = torch.view_as_real(value.resolve_conj())
    if value.is_neg():
        value = value.resolve_neg()
    if value.is_floating_point() and value.element_size() == 1:
        value = value.float()
    return value


def _accumulator(value: torch.Tensor) -> torch.dtype | None:
    return torch.float32 if value.dtype in (torch.float16, torch.bfloat16) else None


def _fill(stats_KS: NDArray[np.float32], rows: list[int], values: list[torch.Tensor], *, count_zeros: bool) -> None:
    norms = _norms(values)
    pairs = [torch.aminmax(v) for v in values]
    columns = [
        *norms,
        *(p.min for p in pairs),
        *(p.max for p in pairs),
        *(v.sum(dtype=_accumulator(v)) for v in values),
    ]
    if count_zeros:
        columns += [(v == 0).sum() for v in values]
    n = len(values)
    read = stack_to_host(columns).reshape(-1, n)
    with np.errstate(over="ignore"):
        stats_KS[rows, : len(read)] = read.T


def _norms(values: list[torch.Tensor]) -> Sequence[torch.Tensor]:
    """l2 norms; those of 16-bit tensors are accumulated in float32, where 300 values of 60,000 do not overflow."""
    half = [v.dtype in (torch.float16, torch.bfloat16) for v in values]
    if not any(half):
        return torch._foreach_norm(values, 2)
    narrow = iter(torch._foreach_norm([v for v, h in zip(values, half, strict=True) if h], 2, dtype=torch.float32))
    others = [v for v, h in zip(values, half, strict=True) if not h]
    wide = iter(torch._foreach_norm(others, 2) if others else [])
    return [next(narrow) if h else next(wide) for h in half]


def stack_to_host(scalars: Sequence[torch.Tensor]) -> NDArray[np.float64]:
    """The scalars in one transfer, float64. Scalars of several devices or types cost one transfer each."""
    first = scalars[0]
    if all(s.dtype == first.dtype and s.device == first.device for s in scalars):
        return torch.stack(list(scalars)).double().cpu().numpy()
    return np.array([float(s) for s in scalars])


def _fill_exactly(row_S: NDArray[np.float32], value: torch.Tensor) -> bool:
    """Recount one tensor whose quick statistics are not finite; True when it really holds a non-finite element."""
    wide = value.double()
    finite = torch.isfinite(wide)
    row_S[_NAN] = float(torch.isnan(wide).sum())
    row_S[_POS_INF] = float((wide == float("inf")).sum())
    row_S[_NEG_INF] = float((wide == float("-inf")).sum())
    row_S[_ZEROS] = float((wide == 0).sum())
    kept = wide[finite]
    if kept.numel():
        limit = float(np.finfo(np.float32).max)
        exact = [kept.norm(), kept.min(), kept.max(), kept.sum()]
        row_S[: _SUM + 1] = [max(-limit, min(limit, float(e))) for e in exact]
    else:
        row_S[: _SUM + 1] = 0
    return bool(row_S[_NAN] + row_S[_POS_INF] + row_S[_NEG_INF])


def _fill_roughly(row_S: NDArray[np.float32], value: torch.Tensor) -> bool:
    row_S[: _SUM + 1] = 0
    row_S[_NAN] = float(torch.isnan(value).sum())
    return True

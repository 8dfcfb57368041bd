"""StepRecords as tidy rows: one a step with `tensor = ""`, and one a (step, tensor).

Legend: T steps of one block (same rank, same names), K tensors, column 0 of (T, K+1) is the step's own row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nanwatch.records import STATISTICS, NamesRecord, StepRecord

FLAGS = ("bad_loss", "bad_grads", "bad_params", "scaler_skipped", "update_skipped")
_L2 = STATISTICS.index("l2")
SCALARS = ("lr", "loss_scale", "step_time_s", "grad_norm_clipped", "overhead")
_COUNTS = ("nan", "pos_inf", "neg_inf")

SCHEMA = pa.schema(
    [
        ("rank", pa.int32()),
        ("step", pa.int64()),
        ("step_total", pa.int64()),
        ("micro_steps", pa.int32()),
        ("time", pa.timestamp("us", tz="UTC")),
        ("tensor", pa.dictionary(pa.int32(), pa.string())),
        ("loss", pa.float64()),
        ("lr", pa.float64()),
        ("loss_scale", pa.float64()),
        ("step_time_s", pa.float64()),
        ("grad_norm", pa.float64()),
        ("grad_norm_clipped", pa.float64()),
        ("overhead", pa.float64()),
        *[(flag, pa.bool_()) for flag in FLAGS],
        ("nonfinite", pa.int64()),
        ("l2", pa.float32()),
        ("min", pa.float32()),
        ("max", pa.float32()),
        ("mean", pa.float32()),
        ("std", pa.float32()),
        ("zero_share", pa.float32()),
        *[(count, pa.int64()) for count in _COUNTS],
    ]
)
"""Null: not measured, or of the other kind of row. `loss` may be NaN or infinite: that was measured.

`nonfinite` counts the non-finite gradient elements of a row's step or tensor. l2, min, max, mean and std are over the
finite elements; `grad_norm` is the l2 norm over all tensors, before clipping; NaN where a
gradient is not finite, null where there was none.
"""


def rows(records: Sequence[StepRecord], names: Mapping[tuple[int, int], NamesRecord]) -> pa.Table:
    """The rows of `records`, in their order; `names` by (rank, names_id)."""
    dictionary: dict[str, int] = {"": 0}
    blocks = [
        _block(list(group), names.get((rank, names_id)), dictionary)
        for (rank, names_id, _), group in groupby(records, lambda r: (r.rank, r.names_id, len(r.stats_KS)))
    ]
    if not blocks:
        return SCHEMA.empty_table()
    values = pa.array(list(dictionary), pa.string())
    return pa.concat_tables([_table(block, values) for block in blocks])


def _table(block: dict[str, pa.Array], dictionary: pa.Array) -> pa.Table:
    block["tensor"] = pa.DictionaryArray.from_arrays(block["tensor"], dictionary)
    return pa.table([block[name] for name in SCHEMA.names], schema=SCHEMA)


def _block(records: list[StepRecord], names: NamesRecord | None, dictionary: dict[str, int]) -> dict[str, pa.Array]:
    stats_TKS = np.stack([r.stats_KS for r in records]).astype(np.float64)
    tensors = stats_TKS.shape[1]
    fqns, numel_K = _names(names, tensors)
    index_K1 = [0, *(dictionary.setdefault(name, len(dictionary)) for name in fqns)]
    repeat = tensors + 1

    def of_step(values: Sequence[Any], dtype: Any) -> NDArray[Any]:
        return np.repeat(np.array(values, dtype), repeat)

    def step_only(values: NDArray[Any], present: NDArray[np.bool_] | None = None) -> pa.Array:
        wide = np.zeros((len(records), repeat), values.dtype)
        wide[:, 0] = values
        absent = np.ones(wide.shape, bool)
        absent[:, 0] = False if present is None else ~present
        return pa.array(wide.ravel(), mask=absent.ravel())

    tensor_columns, step_columns = _statistics(stats_TKS, numel_K)
    out = {
        "rank": pa.array(of_step([r.rank for r in records], np.int32)),
        "step": pa.array(of_step([r.step for r in records], np.int64)),
        "step_total": pa.array(of_step([r.step_total for r in records], np.int64)),
        "micro_steps": pa.array(of_step([r.micro_steps for r in records], np.int32)),
        "time": pa.array(of_step([round(r.time_unix_s * 1e6) for r in records], np.int64)).cast(
            SCHEMA.field("time").type
        ),
        "tensor": pa.array(np.tile(np.array(index_K1, np.int32), len(records))),
        "loss": step_only(np.array([r.loss for r in records]), np.array([r.loss_measured for r in records])),
    }
    for name in SCALARS:
        values = np.array([getattr(r, name) for r in records], np.float64)
        out[name] = step_only(values, ~np.isnan(values))
    for flag in FLAGS:
        out[flag] = step_only(np.array([getattr(r, flag) for r in records], bool))
    has_gradient_T = np.asarray((~np.isnan(stats_TKS[:, :, _L2])).any(axis=1))
    out["grad_norm"] = step_only(step_columns["grad_norm"], has_gradient_T)
    for name, value_TK in tensor_columns.items():
        wide = np.concatenate(
            [step_columns.get(name, np.full(len(records), np.nan))[:, None], value_TK], axis=1
        ).ravel()
        kind = SCHEMA.field(name).type
        out[name] = _integers(wide) if pa.types.is_integer(kind) else pa.array(wide, from_pandas=True).cast(kind)
    return out


def _statistics(
    stats_TKS: NDArray[np.float64], numel_K: NDArray[np.float64]
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Columns (T, K) of the tensors' rows, and (T,) of the steps' rows. NaN becomes null."""
    column = {name: stats_TKS[:, :, i] for i, name in enumerate(STATISTICS)}
    has_grad = ~np.isnan(column["l2"])
    bad_TK: NDArray[np.float64] = np.nan_to_num(np.stack([column[name] for name in _COUNTS])).sum(axis=0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        finite_TK = np.where(has_grad & (numel_K > bad_TK), numel_K - bad_TK, np.nan)
        mean = column["sum"] / finite_TK
        tensors = {
            "l2": column["l2"],
            "min": column["min"],
            "max": column["max"],
            "mean": mean,
            "std": np.sqrt(np.clip(column["l2"] ** 2 / finite_TK - mean**2, 0, None)),
            "zero_share": np.where(has_grad & (numel_K > 0), column["zeros"] / numel_K, np.nan),
            **{name: column[name] for name in _COUNTS},
        }
        norm = np.sqrt(np.nansum(column["l2"] ** 2, axis=1))
    counted = np.stack([~np.isnan(column[name]) for name in _COUNTS])
    tensors["nonfinite"] = np.where(counted.any(axis=0), bad_TK, np.nan)
    steps = {"grad_norm": np.where((bad_TK > 0).any(axis=1), np.nan, norm)}
    for name in (*_COUNTS, "nonfinite"):
        known = ~np.isnan(tensors[name])
        steps[name] = np.where(known.any(axis=1), np.nansum(tensors[name], axis=1), np.nan)
    return tensors, steps


def _names(names: NamesRecord | None, tensors: int) -> tuple[list[str], NDArray[np.float64]]:
    """Names and element counts of K tensors; numbered, without counts, when the NamesRecord was lost."""
    if names is None or len(names.names) != tensors:
        return [f"tensor {i}" for i in range(tensors)], np.full(tensors, np.nan)
    return list(names.names), np.array(names.numels, np.float64)


def _integers(values: NDArray[np.float64]) -> pa.Array:
    # A count beyond what int64 holds is no count, but a damaged one.
    missing = ~(np.abs(values) < 2.0**62)
    return pa.array(np.where(missing, 0, values).astype(np.int64), mask=missing)

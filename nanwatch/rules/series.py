"""Records become named series: what a rule is shown at one moment.

A non-finite value is a state of a series, never a number to compare: `values` may hold NaN or an infinity for a
series that was measured and is bad, and whoever compares leaves it out. A series that was not measured is absent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from nanwatch.records import (
    STATISTICS,
    EndRecord,
    IncidentRecord,
    LogRecord,
    NamesRecord,
    Record,
    StepRecord,
    Tick,
    VitalsRecord,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

SCALARS = ("loss", "grad_norm", "grad_norm_clipped", "lr", "loss_scale", "step_time_s", "overhead")
"""Series with one value a step. Names given to `watch.log(...)` and vitals are series too."""

VECTORS = ("grad_l2", "grad_absmax")
"""Series with one value for each watched tensor."""

_L2, _MIN, _MAX = (STATISTICS.index(s) for s in ("l2", "min", "max"))
_NAN, _POS_INF, _NEG_INF = (STATISTICS.index(s) for s in ("nan", "pos_inf", "neg_inf"))


@dataclass(frozen=True)
class Moment:
    """One record, read. `now` counts the steps seen so far: the clock of everything that is counted in steps."""

    record: Record
    now: int
    rank: int
    step: int
    step_total: int
    values: Mapping[str, float] = field(default_factory=dict)
    vectors_K: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Series of VECTORS -> (K,); NaN for a tensor without a (finite) gradient."""
    names: tuple[str, ...] = ()
    """The K tensors; the same object as long as nothing changed."""
    bad_tensors_K: NDArray[np.bool_] | None = None
    """Tensors with at least one non-finite gradient element."""
    poisoned: bool = False
    """Something is non-finite that GradScaler does not account for."""
    scaler_overflow: bool = False
    """GradScaler found an overflow and skipped the step, as it is meant to."""


class Series:
    """Turns records into moments; remembers names and counts steps."""

    def __init__(self) -> None:
        self._names: dict[int, tuple[str, ...]] = {}
        self._now: dict[int, int] = {}
        self._measured: set[str] = set()
        self._last = (0, 0, 0)

    @property
    def now(self) -> int:
        """Steps seen so far, on the rank that is furthest."""
        return max(self._now.values(), default=0)

    def read(self, record: Record) -> Moment | None:
        """The moment of this record; None for one that rules have no interest in."""
        if isinstance(record, NamesRecord):
            self._names[record.names_id] = record.names
            return None
        if isinstance(record, StepRecord):
            return self._step(record)
        if isinstance(record, LogRecord):
            self._now[record.rank] = max(self._now.get(record.rank, 0), record.step)
            values = {k: float(v) for k, v in record.values.items() if k not in self._measured}
            return self._at(record, record.rank, record.step, record.step_total, values)
        if isinstance(record, IncidentRecord):
            return self._at(record, record.rank, record.step, record.step_total, {})
        if isinstance(record, VitalsRecord):
            return self._at(record, *self._last, dict(record.values))
        if isinstance(record, EndRecord):
            return self._at(record, record.rank, *self._last[1:], {})
        if isinstance(record, Tick):
            return self._at(record, *self._last, {})
        return None

    def snapshot(self) -> dict[str, object]:
        """JSON-ready state. Names are not in it: they come again with the records."""
        return {
            "now": {str(rank): now for rank, now in self._now.items()},
            "measured": sorted(self._measured),
            "last": list(self._last),
        }

    def restore(self, state: Mapping[str, object]) -> None:
        """Take up a state made by `snapshot`."""
        now, measured, last = state["now"], state["measured"], state["last"]
        if not (isinstance(now, dict) and isinstance(measured, list) and isinstance(last, list)):
            raise TypeError("state of another version")
        self._now = {int(rank): int(value) for rank, value in now.items()}
        self._measured = set(measured)
        self._last = (int(last[0]), int(last[1]), int(last[2]))

    def _at(self, record: Record, rank: int, step: int, step_total: int, values: Mapping[str, float]) -> Moment:
        return Moment(record, self._now.get(rank, 0), rank, step, step_total, values)

    def _step(self, record: StepRecord) -> Moment:
        # A step that GradScaler skips does not raise `step`, a dropped record skips numbers: this clock stands both.
        self._now[record.rank] = max(self._now.get(record.rank, 0) + 1, record.step)
        self._last = (record.rank, record.step, record.step_total)
        stats_KS = np.asarray(record.stats_KS, dtype=np.float64).reshape(-1, len(STATISTICS))
        counted_KS = np.nan_to_num(stats_KS[:, [_NAN, _POS_INF, _NEG_INF]], nan=0.0)
        bad_K = counted_KS.sum(axis=1) > 0
        bad_grads = record.bad_grads or bool(bad_K.any())
        overflow = (
            record.scaler_skipped and not record.bad_params and not math.isnan(record.loss if record.bad_loss else 0)
        )
        values = _scalars(record, stats_KS, counted_KS, bad_grads=bad_grads)
        self._measured.update(values)
        names = self._names.get(record.names_id, ())
        return Moment(
            record=record,
            now=self._now[record.rank],
            rank=record.rank,
            step=record.step,
            step_total=record.step_total,
            values=values,
            vectors_K=_vectors(stats_KS, bad_K) if len(names) == len(stats_KS) else {},
            names=names if len(names) == len(stats_KS) else (),
            bad_tensors_K=bad_K,
            poisoned=(record.bad_loss or bad_grads or record.bad_params) and not overflow,
            scaler_overflow=overflow,
        )


def _scalars(
    record: StepRecord, stats_KS: NDArray[np.float64], counted_KS: NDArray[np.float64], *, bad_grads: bool
) -> dict[str, float]:
    values = {"loss": record.loss} if record.loss_measured or record.bad_loss else {}
    for name in ("grad_norm_clipped", "lr", "loss_scale", "step_time_s", "overhead"):
        value = float(getattr(record, name))
        if not math.isnan(value):
            values[name] = value
    if bad_grads:
        only_inf = counted_KS[:, 0].sum() == 0 and counted_KS.sum() > 0
        values["grad_norm"] = math.inf if only_inf else math.nan
    else:
        l2 = stats_KS[:, _L2]
        l2 = l2[~np.isnan(l2)]
        if l2.size:
            values["grad_norm"] = float(np.sqrt(np.square(l2).sum()))
    return values


def _vectors(stats_KS: NDArray[np.float64], bad_K: NDArray[np.bool_]) -> dict[str, NDArray[np.float64]]:
    l2_K = stats_KS[:, _L2]
    absmax_K = np.maximum(np.abs(stats_KS[:, _MIN]), np.abs(stats_KS[:, _MAX]))
    unusable_K = bad_K | np.isnan(l2_K)
    return {
        "grad_l2": np.where(unusable_K, np.nan, l2_K),
        "grad_absmax": np.where(unusable_K, np.nan, absmax_K),
    }

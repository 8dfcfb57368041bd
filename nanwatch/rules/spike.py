"""The family `spike`: a series that jumps out of its own recent past."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from nanwatch.rules.advice import readable
from nanwatch.rules.metric import MetricReader, MetricRule, finding
from nanwatch.rules.rule import Finding, Judge, Reading

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanwatch.rules.series import Moment

_SIGMA_PER_MAD = 1.4826  # of a normal distribution
_FEW = 64  # series up to which the baseline is new at every step and the window is part of the snapshot


class Spike(MetricRule):
    """A series that jumps out of its own recent past.

    Watches: one series, or one value for each tensor (`grad_l2`, `grad_absmax`), against the median of its last
    `window` finite values.

    Why it matters: a spike of the gradient norm or the loss comes often some steps before a divergence, and points to
    an odd batch, a learning rate that is too high, or an overflow that is near.

    Fires when: the value is further from the median than `limit` robust standard deviations (1.4826 times the median
    absolute deviation) and, beside that, `min_ratio` times the median.

    Known problems: gradient norms have heavy tails, so healthy runs have spikes too: keep it at severity info unless
    you know your run. A new regime (another stage, another data set) fires once, then the median follows.
    With more than 64 tensors the baseline is renewed every `window`/20 steps.

    Options: `metric`, `tensors`, `limit`, `window`, `min_samples`, `min_ratio`, `direction`.

    Source: robust z-score, Iglewicz and Hoaglin 1993; ZClip (arXiv:2504.02507) and OLMo-core (6 sigma, 128 steps) use
    mean and standard deviation, which the spike itself shifts.
    """

    type: Literal["spike"] = "spike"
    limit: float = Field(default=10.0, gt=0, description="Robust standard deviations from the median.")
    window: Annotated[int, Field(ge=5, le=10_000)] = Field(
        default=200, description="Finite values that make the baseline."
    )
    min_samples: Annotated[int, Field(ge=5, le=10_000)] = Field(
        default=50, description="No judgement with fewer values."
    )
    min_ratio: Annotated[float, Field(ge=1)] = Field(
        default=3.0, description="Also at least this many times the median."
    )
    direction: Literal["up", "down", "both"] = Field(default="up", description="Which way counts as a spike.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_samples > self.window:
            raise ValueError(
                f"'min_samples' ({self.min_samples}) is larger than 'window' ({self.window}): it could never fire"
            )
        return self

    def judge(self) -> Judge:
        return _SpikeJudge(self)


class _SpikeJudge:
    """Ring of the last W values of K series, and the baseline made from it."""

    def __init__(self, rule: Spike) -> None:
        self._rule = rule
        self._reader = MetricReader(rule)
        self._names: tuple[str, ...] = ()
        self._ring_KW: NDArray[Any] = np.zeros((0, rule.window))
        self._pushed = 0
        self._baseline_at = -1
        self._median_K = self._spread_K = np.zeros(0)
        self._count_K = np.zeros(0, dtype=np.int64)

    def look(self, moment: Moment) -> Reading | None:
        read = self._reader.read(moment)
        if read is None:
            return None
        names, values_K = read
        self._align(names)
        self._renew_baseline()
        known_K = np.isfinite(values_K)
        upper_K, lower_K = self._band()
        judged_K = known_K & (self._count_K >= self._rule.min_samples) & ((self._spread_K > 0) | (self._median_K != 0))
        over_K, under_K = values_K > upper_K, values_K < lower_K
        limits_K = np.where(under_K, lower_K, upper_K) if self._rule.direction != "down" else lower_K
        self._push(values_K, known_K)
        return Reading(
            names, judged_K & (over_K | under_K), known_K, values_K, limits_K, left_out=self._reader.left_out
        )

    def explain(self, reading: Reading, k: int, moment: Moment) -> Finding:
        median, value = float(self._median_K[k]), float(reading.values_K[k])
        times = f"{readable(value / median)} times" if median > 0 and value >= 0 else "far from"
        against = f"{times} the median of the last {int(self._count_K[k])} values ({readable(median)})"
        direction: Literal["up", "down"] = "up" if value > median else "down"
        return finding(self._rule, reading, k, moment, direction=direction, against=against)

    def snapshot(self) -> Any:
        """The window of a few series. Of many it is left out: it is large, and learnt again in `min_samples` steps."""
        if not 0 < len(self._names) <= _FEW:
            return None
        held = np.roll(self._ring_KW, -(self._pushed % self._rule.window), axis=1)
        return {
            "names": list(self._names),
            "values": [[float(v) for v in row[np.isfinite(row)]] for row in held],
        }

    def restore(self, state: Any) -> None:
        if state is None:
            return
        self._align(tuple(state["names"]))
        for k, values in enumerate(state["values"]):
            last = values[-self._rule.window :]
            self._ring_KW[k, : len(last)] = last
        self._pushed = min(self._rule.window, max((len(values) for values in state["values"]), default=0))

    def _band(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        far_K = self._rule.limit * self._spread_K
        size_K = np.abs(self._median_K)
        upper_K = self._median_K + np.maximum(far_K, (self._rule.min_ratio - 1) * size_K)
        lower_K = self._median_K - np.maximum(far_K, (1 - 1 / self._rule.min_ratio) * size_K)
        never = np.full_like(upper_K, np.inf)
        return (
            upper_K if self._rule.direction in {"up", "both"} else never,
            lower_K if self._rule.direction in {"down", "both"} else -never,
        )

    def _renew_baseline(self) -> None:
        every = 1 if len(self._names) <= _FEW else max(1, self._rule.window // 20)
        if self._baseline_at >= 0 and self._pushed - self._baseline_at < every:
            return
        self._median_K, self._count_K = _median(self._ring_KW)
        deviation_KW = np.abs(self._ring_KW - self._median_K[:, None])
        self._spread_K = _SIGMA_PER_MAD * _median(deviation_KW)[0]
        self._baseline_at = self._pushed

    def _push(self, values_K: NDArray[np.float64], known_K: NDArray[np.bool_]) -> None:
        if not known_K.any():
            return
        self._ring_KW[:, self._pushed % self._rule.window] = np.where(known_K, values_K, np.nan)
        self._pushed += 1

    def _align(self, names: tuple[str, ...]) -> None:
        if names is self._names:
            return
        if names != self._names:
            # Per-tensor rings are large (K x W); float32 halves them and is what was measured.
            ring_KW = np.full((len(names), self._rule.window), np.nan, np.float64 if len(names) <= _FEW else np.float32)
            row = {name: k for k, name in enumerate(self._names)}
            kept = [(k, row[name]) for k, name in enumerate(names) if name in row]
            if kept:
                new_k, old_k = (np.array(side) for side in zip(*kept, strict=True))
                ring_KW[new_k] = self._ring_KW[old_k]
            self._ring_KW = ring_KW
            self._baseline_at = -1
        self._names = names


def _median(values_KW: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Median and count of the finite values of each row; 0 for a row without any."""
    count_K = np.isfinite(values_KW).sum(axis=1)
    ordered_KW = np.sort(values_KW, axis=1)  # NaN goes last
    rows_K = np.arange(len(values_KW))
    low_K, high_K = np.maximum(count_K - 1, 0) // 2, count_K // 2
    middle_K = (
        ordered_KW[rows_K, low_K].astype(np.float64) + ordered_KW[rows_K, np.minimum(high_K, values_KW.shape[1] - 1)]
    ) / 2
    return np.where(count_K > 0, middle_K, 0.0), count_K

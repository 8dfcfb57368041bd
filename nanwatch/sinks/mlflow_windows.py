"""Windows that grow with the run, so that a run of any length has a few hundred points a key.

MLflow's charts fetch 320 points and leave out the rest, so a spike of one step among 10,000 is invisible there unless
it is in the maximum of a window. Everything here depends on the records alone: sent again, the points are the same,
and MLflow keeps one of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FINE_STEPS = 128
WINDOWS_PER_DOUBLING = 32
CHART_POINTS = 320
LONGEST_WINDOW_MS = 600_000

Kind = Literal["last", "max", "mean"]


@dataclass(frozen=True)
class Point:
    """One value of one metric key, with step and time as they were when it was measured."""

    key: str
    value: float
    timestamp_ms: int
    step: int


def window_of(n: int) -> int:
    """Number of the window that the n-th step (0-based) belongs to.

    The first 128 steps have one each, then every doubling of the run has 32: 327 at 10,000 steps, 541 at a million.
    """
    if n < FINE_STEPS:
        return n
    doublings = (n // FINE_STEPS).bit_length() - 1
    start = FINE_STEPS << doublings
    return FINE_STEPS + WINDOWS_PER_DOUBLING * doublings + (n - start) * WINDOWS_PER_DOUBLING // start


class Windows:
    """M metric keys that are measured together, and the window that is open.

    Shape: kinds (M,); every `add` takes values_M (M,) float64, NaN where nothing (finite) was measured.
    """

    def __init__(self, keys: Sequence[str], kinds: Sequence[Kind]) -> None:
        self.keys = tuple(keys)
        self._is_max = np.array([k == "max" for k in kinds])
        self._is_mean = np.array([k == "mean" for k in kinds])
        self._past_maxima: list[NDArray[np.float64]] = []
        self._closed = 0
        self._window = -1
        self._opened_ms = 0
        self._clear()

    def add(self, n: int, step: int, timestamp_ms: int, values_M: NDArray[np.float64]) -> list[Point]:
        """Take in the n-th step (0-based); returns the points of the windows that it closes."""
        points = [] if self._window in {-1, window_of(n)} else self.flush()
        if self._window == -1:
            self._window, self._opened_ms = window_of(n), timestamp_ms
        known = np.isfinite(values_M)
        self._last_M[known] = values_M[known]
        self._max_M[known] = np.maximum(self._max_M[known], values_M[known])
        self._sum_M[known] += values_M[known]
        self._count_M[known] += 1
        self._step_M[known] = step
        self._time_M[known] = timestamp_ms
        if window_of(n + 1) != self._window or timestamp_ms - self._opened_ms >= LONGEST_WINDOW_MS:
            points += self.flush()
        return points

    def flush(self) -> list[Point]:
        """Close the open window and return its points: one for each key that has seen a finite value in it."""
        if self._window == -1:
            return []
        self._closed += 1
        self._past_maxima.append(self._max_M)
        # Charts show every q-th point of a long run: a maximum over q + 1 windows is shown whichever they pick.
        del self._past_maxima[: -(2 + self._closed // CHART_POINTS)]
        with np.errstate(invalid="ignore", divide="ignore"):
            values_M = np.where(self._is_mean, self._sum_M / self._count_M, self._last_M)
        values_M = np.where(self._is_max, np.max(self._past_maxima, axis=0), values_M)
        points = [
            Point(self.keys[i], float(values_M[i]), int(self._time_M[i]), int(self._step_M[i]))
            for i in np.flatnonzero((self._count_M > 0) & np.isfinite(values_M))
        ]
        self._window = -1
        self._clear()
        return points

    def _clear(self) -> None:
        m = len(self.keys)
        self._last_M = np.full(m, np.nan)
        self._max_M = np.full(m, -np.inf)
        self._sum_M = np.zeros(m)
        self._count_M = np.zeros(m, dtype=np.int64)
        self._step_M = np.zeros(m, dtype=np.int64)
        self._time_M = np.zeros(m, dtype=np.int64)

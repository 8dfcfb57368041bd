"""Records in, metric points out: the keys that a run has in MLflow.

Never a NaN or an infinity: MLflow's page drops a key whose latest value is one, so such a step is counted in
`nanwatch/nonfinite` and has no point. Pure: no clock, no network.
"""

from __future__ import annotations

import math

import numpy as np

from nanwatch.records import Alert, LogRecord, NamesRecord, NoteRecord, StepRecord, VitalsRecord
from nanwatch.sinks.mlflow_blocks import BlockStatistics, global_grad_norm
from nanwatch.sinks.mlflow_names import KeyNames
from nanwatch.sinks.mlflow_windows import Kind, Point, Windows

SCALARS: tuple[tuple[str, Kind], ...] = (
    ("loss", "last"),
    ("loss_max", "max"),
    ("grad_norm", "last"),
    ("grad_norm_max", "max"),
    ("grad_norm_clipped", "last"),
    ("lr", "last"),
    ("loss_scale", "last"),
    ("scaler_skipped", "last"),
    ("step_time_s", "mean"),
    ("overhead", "mean"),
    ("nonfinite", "last"),
    ("alerts_firing", "max"),
    ("dropped_records", "last"),
)
USER_KEYS = 500
"""Names that `watch.log` may use; more are counted in `skipped`."""

_CUTS = 20
_VITALS_EVERY_S = 10.0
_VITALS_SHARE = 1 / 200


class StepMetrics:
    """Turns what a run reports into points. `key_budget` bounds the keys that nanwatch makes by itself.

    Only records of `rank` become curves: after the all-reduce every rank has the same gradients.
    """

    def __init__(self, rank: int, started_unix_s: float, key_budget: int) -> None:
        self.names = KeyNames()
        self.skipped: dict[str, int] = {}
        self.firing = 0
        self.first_bad_step: int | None = None
        self._rank = rank
        self._started_unix_s = started_unix_s
        self._block_budget = max(key_budget - len(SCALARS), 2)
        self._scalars = Windows([f"nanwatch/{name}" for name, _ in SCALARS], [kind for _, kind in SCALARS])
        self._names: dict[int, NamesRecord] = {}
        self._blocks: BlockStatistics | None = None
        self._blocks_id = -1
        self._block_windows = Windows((), ())
        self._logged: dict[str, tuple[Windows, int]] = {}
        self._firing: set[str] = set()
        self._overflows = 0
        self._bad_steps: dict[int, int] = {}
        self._was_bad = False
        self._cuts = 0
        self._dropped = 0
        self._vitals_due_unix_s = 0.0

    @property
    def bad_steps(self) -> int:
        """Non-finite steps so far, on the rank that has most."""
        return max(self._bad_steps.values(), default=0)

    def name(self, record: NamesRecord) -> None:
        self._names[record.names_id] = record
        if record.names_id == self._blocks_id:
            self._blocks_id = -1

    def note(self, record: NoteRecord) -> None:
        if record.reason.startswith("dropped"):
            self._dropped += record.count

    def alert(self, alert: Alert) -> None:
        (self._firing.add if alert.state == "firing" else self._firing.discard)(alert.id)
        # A firing that is over before the window closes must still be seen: it is a maximum.
        self.firing = max(self.firing, len(self._firing))

    def step(self, record: StepRecord) -> list[Point]:
        """The points of the windows that this step closes."""
        bad = record.bad_loss or record.bad_params or (record.bad_grads and not record.scaler_skipped)
        if bad:
            self._bad_steps[record.rank] = self._bad_steps.get(record.rank, 0) + 1
            self.first_bad_step = record.step_total if self.first_bad_step is None else self.first_bad_step
        if record.rank != self._rank:
            return []
        points = self._cut(bad)
        at = record.step, record.step_total, round(record.time_unix_s * 1000)
        points += self._scalars.add(*at, self._scalar_values(record))
        self.firing = len(self._firing)
        blocks, switched = self._blocks_for(record)
        points += switched
        if blocks is not None:
            points += self._block_windows.add(*at, blocks.measure(record.stats_KS))
        return points

    def log(self, record: LogRecord) -> list[Point]:
        """The user's own values: each at once, until there are many of them."""
        points: list[Point] = []
        if record.rank != self._rank:
            return points
        for name, value in record.values.items():
            if name not in self._logged and len(self._logged) >= USER_KEYS:
                self._skip("user_keys")
            elif not math.isfinite(value):
                self._skip("nonfinite_user_value")
            else:
                key = self.names.key("nanwatch/log", name)
                windows, calls = self._logged.get(name) or (Windows([key], ["last"]), 0)
                points += windows.add(calls, record.step_total, round(record.time_unix_s * 1000), np.array([value]))
                self._logged[name] = windows, calls + 1
        return points

    def vitals(self, record: VitalsRecord) -> list[Point]:
        """Every ten seconds, later less often. The step is the seconds since the start: that axis shows time."""
        if record.time_unix_s < self._vitals_due_unix_s:
            return []
        age_s = max(record.time_unix_s - self._started_unix_s, 0.0)
        self._vitals_due_unix_s = record.time_unix_s + max(_VITALS_EVERY_S, age_s * _VITALS_SHARE)
        return [
            Point(self.names.key("system/nanwatch", key), float(value), round(record.time_unix_s * 1000), int(age_s))
            for key, value in record.values.items()
            if math.isfinite(value)
        ]

    def flush(self) -> list[Point]:
        """What the open windows hold; at the end of the run."""
        open_windows = [self._scalars, self._block_windows, *(w for w, _ in self._logged.values())]
        return [point for windows in open_windows for point in windows.flush()]

    def _scalar_values(self, r: StepRecord) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        loss = r.loss if r.loss_measured else math.nan
        norm = math.nan if r.bad_grads else global_grad_norm(r.stats_KS)
        return np.array(
            [
                loss, loss, norm, norm, r.grad_norm_clipped, r.lr, r.loss_scale, self._skipped_by_scaler(r),
                r.step_time_s, r.overhead, self.bad_steps, self.firing, self._dropped,
            ]
        )  # fmt: skip

    def _skipped_by_scaler(self, record: StepRecord) -> float:
        """Steps so far whose gradients overflowed on purpose; no curve for a run that scales nothing."""
        self._overflows += record.scaler_skipped
        return self._overflows if self._overflows or math.isfinite(record.loss_scale) else math.nan

    def _cut(self, bad: bool) -> list[Point]:
        """End the window where steps turn bad or good, so that the last good values have their own point."""
        if bad == self._was_bad or self._cuts >= _CUTS:
            return []
        self._was_bad = bad
        self._cuts += 1
        return self._scalars.flush() + self._block_windows.flush()

    def _blocks_for(self, record: StepRecord) -> tuple[BlockStatistics | None, list[Point]]:
        points: list[Point] = []
        if record.names_id != self._blocks_id and record.names_id in self._names:
            points = self._block_windows.flush()
            self._blocks_id = record.names_id
            self._blocks = BlockStatistics(self._names[record.names_id], self.names, self._block_budget)
            self._block_windows = Windows(self._blocks.keys, self._blocks.kinds)
        fits = self._blocks is not None and len(record.stats_KS) == self._blocks.tensors > 0
        return (self._blocks if fits and record.names_id == self._blocks_id else None), points

    def _skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1

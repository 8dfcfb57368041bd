"""Metrics of the host, by MLflow's own monitors, in the agent instead of the trainer.

MLflow's thread that drives them is left alone: it gives up for good at the first answer that a server owes it. Here
the values go the same way as all others, through the queue.
"""

from __future__ import annotations

import math
import os
from typing import Any

from nanwatch.sinks.mlflow_run import OpenRun
from nanwatch.sinks.mlflow_windows import Point

EVERY_S = 10.0
WAIT_FOR_USERS_S = 30.0
"""On the user's own run: MLflow's monitor there, if the user has one, shows up after ten seconds."""

_FIRST_AFTER_S = 1.0
"""A processor's load is that since the reading before."""
_SHARE = 1 / 200
_OFF = {"0", "false"}


class HostMetrics:
    """Samples the host every ten seconds, later less often, unless the run has such metrics already."""

    def __init__(self, started_unix_s: float) -> None:
        self.active: bool | None = None
        """None until it is decided."""
        self._started_unix_s = started_unix_s
        self._due_unix_s = 0.0
        self._opened_unix_s: float | None = None
        self._monitors: list[Any] = []

    def sample(self, run: OpenRun, now_unix_s: float, *, ours_already: bool) -> list[Point]:
        """The host's values now, if they are due. `ours_already`: an earlier agent began to write them.

        Raises: SinkError.
        """
        if self.active is None:
            self._decide(run, now_unix_s, ours_already=ours_already)
        if not self.active or now_unix_s < self._due_unix_s:
            return []
        age_s = max(now_unix_s - self._started_unix_s, 0.0)
        self._due_unix_s = now_unix_s + max(EVERY_S, age_s * _SHARE)
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values.update(monitor.aggregate_metrics())
            monitor.clear_metrics()
        return [
            Point(f"system/{key}", float(value), round(now_unix_s * 1000), int(age_s))
            for key, value in values.items()
            if math.isfinite(value)
        ]

    def _decide(self, run: OpenRun, now_unix_s: float, *, ours_already: bool) -> None:
        self._opened_unix_s = now_unix_s if self._opened_unix_s is None else self._opened_unix_s
        if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in _OFF:
            self.active = False
        elif run.target.ours or ours_already:
            self.active = True
        elif now_unix_s - self._opened_unix_s >= WAIT_FOR_USERS_S:
            with run.connection.errors():
                keys = run.connection.client.get_run(run.target.run_id).data.metrics
            self.active = not any(k.startswith("system/") and not k.startswith("system/nanwatch/") for k in keys)
        if self.active:
            self._monitors = _monitors(run)
            self._due_unix_s = now_unix_s + _FIRST_AFTER_S


def _monitors(run: OpenRun) -> list[Any]:
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    monitors: list[Any] = SystemMetricsMonitor(run.target.run_id, tracking_uri=run.connection.uri).monitors
    for monitor in monitors:
        monitor.collect_metrics()
        monitor.clear_metrics()
    return monitors

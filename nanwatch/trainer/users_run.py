"""The MLflow run that the user's own program has open, found without importing mlflow."""

from __future__ import annotations

import sys
import time

from nanwatch.records import MlflowRunRecord

LOOK_EVERY_S = 1.0


class UsersRun:
    """Looks at `mlflow.active_run()` now and then; gives a record when there is a run that was not told yet."""

    def __init__(self) -> None:
        self._next_look_s = 0.0
        self._told: str | None = None

    def look(self) -> MlflowRunRecord | None:
        """A new active run of this thread, or None. Cost: a dictionary look-up where mlflow is not in use."""
        mlflow = sys.modules.get("mlflow")
        now = time.monotonic()
        if mlflow is None or now < self._next_look_s:
            return None
        self._next_look_s = now + LOOK_EVERY_S
        active_run = getattr(mlflow, "active_run", None)
        run = active_run() if active_run is not None else None
        if run is None or run.info.run_id == self._told:
            return None
        self._told = run.info.run_id
        return MlflowRunRecord(run.info.run_id, mlflow.get_tracking_uri(), run.info.experiment_id)

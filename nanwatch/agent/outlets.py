"""The sinks of a run that wait for a network, each in its own thread."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nanwatch.agent.run_file import MLFLOW_FACTS
from nanwatch.agent.sink_runner import SinkRunner
from nanwatch.bundle.upload import UploadPolicy
from nanwatch.records import RunRecord
from nanwatch.sinks.sink import RunEnd, Sink

log = logging.getLogger("nanwatch.agent")


class Outlets:
    """Starts the sinks that the run's settings and the agent's environment ask for, and ends them together."""

    def __init__(self, run: RunRecord, run_dir: Path, environ: Mapping[str, str]) -> None:
        self._run = run
        self._run_dir = run_dir
        self._environ = environ
        self.runners: list[SinkRunner] = []
        if run.settings.get("mlflow"):
            self._add("mlflow", self._make_mlflow)
        if environ.get("NANWATCH_WEBHOOK_URL"):
            self._add("webhook", self._make_webhook)

    def start(self) -> None:
        for runner in self.runners:
            runner.start()

    def states(self) -> dict[str, dict[str, Any]]:
        return {runner.name: runner.state() for runner in self.runners}

    def mlflow_facts(self) -> dict[str, Any]:
        """run_id, tracking_uri and experiment_id of the MLflow run; empty while there is none."""
        state = next((runner.state() for runner in self.runners if runner.name == "mlflow"), {})
        facts = {key: state[key] for key in MLFLOW_FACTS if state.get(key) is not None}
        return facts if "run_id" in facts else {}

    def upload_policy(self) -> UploadPolicy:
        """What of a bundle will leave the machine, and where to."""
        settings = self._run.settings
        place = self.mlflow_facts().get("tracking_uri")
        destination = f"MLflow at {place}" if place else "MLflow"
        return UploadPolicy(
            destination=destination if settings.get("mlflow") else None,
            batch=settings.get("upload_batch", "full"),
            parameters=settings.get("upload_parameters", "full"),
            max_mib=settings.get("max_upload_mib", 256),
        )

    def finish(self, end: RunEnd | None, deadline_s: Callable[[], float]) -> bool:
        """Ship what is left and close, all at once; True when every sink came to its end before `deadline_s()`.

        `deadline_s` (monotonic) is asked again and again: it may come nearer.
        """
        for runner in self.runners:
            runner.finish(end, deadline_s())
        waiting = list(self.runners)
        while waiting and time.monotonic() < deadline_s():
            waiting = [runner for runner in waiting if not runner.join(0.05)]
        for runner in waiting:
            log.warning("sink %s was not done in time; `nanwatch sync %s` ships the rest", runner.name, self._run_dir)
        return not waiting

    def _add(self, name: str, make: Callable[[], Sink]) -> None:
        self.runners.append(SinkRunner(name, make, uniform=random.uniform))

    # Imported in the sink's own thread: mlflow takes seconds, and without it nothing of it may be loaded.
    def _make_mlflow(self) -> Sink:
        from nanwatch.sinks.mlflow import MlflowSink

        return MlflowSink(self._run, self._run_dir)

    def _make_webhook(self) -> Sink:
        from nanwatch.sinks.webhook import WebhookSink

        return WebhookSink(
            self._environ["NANWATCH_WEBHOOK_URL"],
            self._environ.get("NANWATCH_WEBHOOK_SECRET") or None,
            self._run_dir / "outbox",
            self._run,
            self._run.settings.get("ui_url"),
            self.mlflow_facts,
        )

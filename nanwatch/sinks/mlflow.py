"""The MLflow sink: one run that tells how training went, and explains the step on which it went wrong."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanwatch.bundle.upload import UploadPolicy
from nanwatch.errors import SinkError
from nanwatch.records import (
    Alert,
    Incident,
    LogRecord,
    MlflowRunRecord,
    NamesRecord,
    NoteRecord,
    Record,
    RunRecord,
    StepRecord,
    VitalsRecord,
    json_ready,
)
from nanwatch.sinks.mlflow_artifacts import ROOT, Uploader, plan
from nanwatch.sinks.mlflow_batches import Outgoing
from nanwatch.sinks.mlflow_host import HostMetrics
from nanwatch.sinks.mlflow_metrics import StepMetrics
from nanwatch.sinks.mlflow_note import NOTE_TAG, PLOT, NoteFacts, merged, section
from nanwatch.sinks.mlflow_plot import draw
from nanwatch.sinks.mlflow_run import OpenRun, RunFinder
from nanwatch.sinks.mlflow_state import MlflowState
from nanwatch.sinks.mlflow_tags import StatusTags
from nanwatch.sinks.sink import FinishedIncident, RunEnd

MOST_ALERTS = 2_000
"""Transitions kept for the table; the whole list is in `alerts.jsonl`."""

_ALERT_COLUMNS = (
    "step", "rule", "state", "severity", "rank", "module", "param", "metric", "value", "limit", "cause", "summary",
    "id",
)  # fmt: skip
_TABLES_TAG = "mlflow.loggedArtifacts"
_ALERTS_TABLE = f"{ROOT}/alerts.json"


class MlflowSink:
    """Sends a run to MLflow, as `Sink` wants it. `run.settings` says where; everything else is MLflow's own default.

    The records may be given again from the start after a restart: points are the same and MLflow keeps one of each.
    `clock` gives Unix seconds; it is asked only for what has no record with a time.
    """

    name = "mlflow"

    def __init__(self, run: RunRecord, run_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        settings = run.settings
        self._run = run
        self._run_dir = run_dir
        self._clock = clock
        self._policy = UploadPolicy(
            destination="MLflow",
            batch=settings.get("upload_batch", "full"),
            parameters=settings.get("upload_parameters", "full"),
            max_mib=settings.get("max_upload_mib", 256),
        )
        self._state = MlflowState.load(run_dir / "mlflow.json")
        self._finder = RunFinder(run, self._state)
        self._metrics = StepMetrics(run.rank, run.time_unix_s, int(settings.get("metric_keys", 100)))
        self._host = HostMetrics(run.time_unix_s)
        self._host_due = False
        self._outgoing = Outgoing()
        self._uploader = Uploader()
        self._tags = StatusTags(run.versions.get("nanwatch"))
        self._tags.restore(self._state.tags)
        self._incidents: list[FinishedIncident] = []
        self._waiting: list[FinishedIncident] = []
        self._withheld: dict[str, dict[str, str]] = {}
        self._alerts: list[Alert] = []
        self._fired: set[str] = set()
        self._steps = 0
        self._last_unix_s = run.time_unix_s
        self._worth_a_run = False
        self._files_due = False
        self._finished = False
        self._has_plot = False
        self._names_sent = 0
        self._note_sent = ""
        self._end: RunEnd | None = None

    def observe(self, record: Record) -> None:
        match record:
            case StepRecord():
                self._outgoing.add(self._metrics.step(record))
                self._steps = max(self._steps, record.step + 1)
                self._worth_a_run = True
            case LogRecord():
                self._outgoing.add(self._metrics.log(record))
                self._worth_a_run = True
            case VitalsRecord():
                self._outgoing.add(self._metrics.vitals(record))
                self._host_due = True
            case NamesRecord():
                self._metrics.name(record)
            case NoteRecord():
                self._metrics.note(record)
            case MlflowRunRecord():
                self._finder.users_run(record)
            case _:
                pass
        self._last_unix_s = max(self._last_unix_s, getattr(record, "time_unix_s", 0.0))
        if self._metrics.first_bad_step is not None:
            self._tags.first_bad_step(self._metrics.first_bad_step)

    def alert(self, alert: Alert) -> None:
        self._metrics.alert(alert)
        self._alerts = [*self._alerts[1 - MOST_ALERTS :], alert]
        if alert.state == "firing":
            self._fired.add(alert.id)
            self._tags.raise_to("alerting")
        self._worth_a_run = True

    def incident(self, finished: FinishedIncident) -> None:
        if any(known.incident.id == finished.incident.id for known in self._incidents):
            return
        self._incidents.append(finished)
        if finished.incident.kind == "nonfinite":
            self._tags.incident(finished.incident)
        self._waiting.append(finished)
        self._worth_a_run = True

    def ship(self, now_unix_s: float, *, final: bool) -> bool:
        if final:
            self._outgoing.add(self._metrics.flush())
        run = self._finder.open(now_unix_s, final=final, may_create=self._worth_a_run)
        if run is None:
            return not (self._worth_a_run and (self._outgoing or self._waiting))
        if self._finder.moved:
            self._start_over()
        self._send_tags(run)
        failure = self._upload_waiting(run)
        self._sample_host(run, now_unix_s)
        self._outgoing.send(run.connection, run.target.run_id, everything=final)
        if failure is not None:
            raise failure
        if self._files_due or (final and not self._finished):
            self._upload_files(run, final=final)
            self._update_note(run)
            self._files_due = False
            self._finished = final
        return not self._outgoing

    def close(self, end: RunEnd) -> None:
        """As `Sink.close`; may be called again after a SinkError."""
        self._end = end
        self._tags.end(end)
        worth_a_run = self._worth_a_run or self._tags.values["nanwatch.status"] != "ok"
        run = self._finder.open(self._clock(), final=True, may_create=worth_a_run)
        if run is None:
            return
        if self._finder.moved:
            self._start_over()
        with run.connection.errors():
            status = run.connection.client.get_run(run.target.run_id).info.status
            if run.target.ours or status == "RUNNING":
                run.connection.client.set_terminated(run.target.run_id, end.status, round(self._last_unix_s * 1000))
        self._send_tags(run)
        self._update_note(run)

    def state(self) -> dict[str, Any]:
        target = self._state.target
        dropped = Counter(self._outgoing.dropped)
        dropped.update(self._uploader.dropped)
        dropped.update(self._metrics.skipped)
        return {
            "run_id": target and target.run_id,
            "tracking_uri": target and target.tracking_uri,
            "experiment_id": target and target.experiment_id,
            "created": bool(target and target.ours),
            "queued": len(self._outgoing) + len(self._waiting),
            "sent": {
                "metrics": self._outgoing.sent,
                "artifacts": self._uploader.sent,
                "bytes": self._uploader.sent_bytes,
            },
            "dropped": dict(dropped),
            "withheld": self._withheld,
        }

    def _start_over(self) -> None:
        """The user's run took over: it gets everything that is not a point again."""
        self._finder.moved = False
        self._waiting = list(self._incidents) + self._incidents_on_disk()
        self._incidents = list(self._waiting)
        self._names_sent, self._note_sent = 0, ""
        self._finished = False
        self._files_due = True
        if self._host.active:
            self._host = HostMetrics(self._run.time_unix_s)

    def _incidents_on_disk(self) -> list[FinishedIncident]:
        """Those that an earlier agent uploaded to the run that was left."""
        known = {f.incident.id for f in self._incidents}
        found = []
        for manifest in sorted((self._run_dir / "incidents").glob("*/manifest.json")):
            try:
                incident = Incident.from_json(json.loads((manifest.parent / "incident.json").read_text()))
            except (OSError, ValueError, KeyError, TypeError):
                continue
            if incident.id not in known:
                found.append(FinishedIncident(incident, manifest.parent))
        return found

    def _send_tags(self, run: OpenRun) -> None:
        from mlflow.entities import RunTag

        new = {k: v for k, v in self._tags.values.items() if self._state.tags.get(k) != v}
        if not new:
            return
        with run.connection.errors():
            run.connection.client.log_batch(run.target.run_id, tags=[RunTag(k, v) for k, v in new.items()])
        self._state.tags = dict(self._tags.values)
        self._state.save()

    def _upload_waiting(self, run: OpenRun) -> SinkError | None:
        """Upload the bundles; a failure is returned, so that a store that takes no files still gets the metrics."""
        while self._waiting:
            name, folder = self._waiting[0].incident.id, self._waiting[0].folder
            is_there = name in self._state.uploaded
            try:
                if is_there:
                    done = plan(folder, self._policy)
                else:
                    done = self._uploader.incident(run, name, folder, self._policy)
            except SinkError as e:
                if not e.permanent:
                    return e
                self._withheld[name] = {"all": str(e)}
            else:
                self._withheld[name] = done.withheld
            self._waiting.pop(0)
            self._files_due = True
            if not is_there:
                self._state.uploaded.append(name)
                self._state.save()
        return None

    def _sample_host(self, run: OpenRun, now_unix_s: float) -> None:
        # Vitals are taken by a live agent only: with them comes the time to look at the host.
        if not self._host_due:
            return
        self._host_due = False
        self._outgoing.add(self._host.sample(run, now_unix_s, ours_already=self._state.host_metrics))
        if self._host.active and not self._state.host_metrics:
            self._state.host_metrics = True
            self._state.save()

    def _upload_files(self, run: OpenRun, *, final: bool) -> None:
        if self._metrics.names.changed and len(self._metrics.names.changed) != self._names_sent:
            content = {"schema": "nanwatch.names/1", "names": dict(self._metrics.names.changed)}
            self._uploader.document(run, content, f"{ROOT}/names.json")
            self._names_sent = len(self._metrics.names.changed)
        self._upload_plot(run)
        if self._alerts:
            self._upload_alerts(run)
        timeline = self._run_dir / "timeline.parquet"
        if final and timeline.is_file():
            if timeline.stat().st_size > self._policy.max_mib * 1024 * 1024:
                self._withheld["timeline.parquet"] = {
                    "timeline.parquet": f"larger than max_upload_mib={self._policy.max_mib:g}"
                }
            else:
                self._uploader.file(run, timeline, ROOT)

    def _upload_plot(self, run: OpenRun) -> None:
        curves = []
        for title, key in (("loss", "nanwatch/loss"), ("highest gradient norm", "nanwatch/grad_norm_max")):
            with run.connection.errors():
                history = run.connection.client.get_metric_history(run.target.run_id, key)
            if history:
                curves.append((title, sorted((m.step, m.value) for m in history)))
        if not curves:
            return
        incident_step = self._tags.values.get("nanwatch.first_incident_step")
        picture = draw(self._run.name, curves, None if incident_step is None else int(incident_step))
        self._uploader.document(run, picture, PLOT)
        self._has_plot = True

    def _upload_alerts(self, run: OpenRun) -> None:
        rows = [[json_ready(getattr(a, column)) for column in _ALERT_COLUMNS] for a in self._alerts]
        self._uploader.document(run, {"columns": list(_ALERT_COLUMNS), "data": rows}, _ALERTS_TABLE)
        with run.connection.errors():
            tags = run.connection.client.get_run(run.target.run_id).data.tags
            tables = json.loads(tags.get(_TABLES_TAG, "[]"))
            entry = {"path": _ALERTS_TABLE, "type": "table"}
            if entry not in tables:
                run.connection.client.set_tag(run.target.run_id, _TABLES_TAG, json.dumps([*tables, entry]))

    def _update_note(self, run: OpenRun) -> None:
        facts = NoteFacts(
            incidents=sorted((f.incident for f in self._incidents), key=lambda i: i.step_total),
            withheld=self._withheld,
            bad_steps=self._metrics.bad_steps,
            steps=self._steps,
            alerts=len(self._fired),
            end=self._end,
            folder=str(self._run_dir),
            host=self._run.host,
            has_plot=self._has_plot,
        )
        ui_url = self._run.settings.get("ui_url") or (run.connection.shown_uri if run.connection.is_http else None)
        text = section(facts, run.target, ui_url)
        if text == self._note_sent:
            return
        with run.connection.errors():
            existing = run.connection.client.get_run(run.target.run_id).data.tags.get(NOTE_TAG, "")
            run.connection.client.set_tag(run.target.run_id, NOTE_TAG, merged(existing, text))
        self._note_sent = text

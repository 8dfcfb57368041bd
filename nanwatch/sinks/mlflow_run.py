"""Which MLflow run is ours to write to: exactly one, the user's own wherever there is one.

An explicit run id; else the run that the user's process has open; else MLFLOW_RUN_ID; else one that is created here,
late enough that a run which the user opens meanwhile wins. One that the user opens still later takes over all points.
"""

from __future__ import annotations

import getpass
import os
from dataclasses import dataclass
from typing import Any

from nanwatch.errors import SinkError
from nanwatch.records import MlflowRunRecord, RunRecord
from nanwatch.sinks.mlflow_batches import send_metrics
from nanwatch.sinks.mlflow_connection import Connection, default_uri, without_credentials
from nanwatch.sinks.mlflow_state import MlflowState, Target
from nanwatch.sinks.mlflow_store import ready_store
from nanwatch.sinks.mlflow_windows import Point

GRACE_S = 10.0
RUN_TAG = "nanwatch.run"
"""On runs created here: the run's folder name, by which an agent that crashed in between finds it again."""


@dataclass(frozen=True)
class OpenRun:
    """A run that can be written to, through `connection`."""

    connection: Connection
    target: Target


class RunFinder:
    """Opens the run and keeps it open."""

    def __init__(self, run: RunRecord, state: MlflowState) -> None:
        self.moved = False
        """A run of the user's took over: everything but the points must be sent again."""
        self._run = run
        self._state = state
        self._opened: OpenRun | None = None
        self._users: MlflowRunRecord | None = None

    def users_run(self, record: MlflowRunRecord) -> None:
        """The user's process has this run open. The first one counts: later ones are other experiments of a script."""
        self._users = self._users or record

    def open(self, now_unix_s: float, *, final: bool, may_create: bool) -> OpenRun | None:
        """The run to write to, after following the user to a new one.

        None while there is none and it is too early to create one, or `may_create` forbids it.

        Raises: SinkError.
        """
        if self._opened is None:
            self._opened = self._open_first(now_unix_s, final=final, may_create=may_create)
        if self._opened is not None:
            self._opened = self._follow_user(self._opened, now_unix_s)
        return self._opened

    def _open_first(self, now_unix_s: float, *, final: bool, may_create: bool) -> OpenRun | None:
        explicit, from_environment = self._asked_run_id()
        known = self._known_target()
        if explicit:
            return self._open(self._uri(explicit), explicit, now_unix_s)
        if known:
            return self._open(known.tracking_uri, known.run_id, now_unix_s, ours=known.ours)
        if self._users:
            return self._open(self._users.tracking_uri, self._users.run_id, now_unix_s)
        if now_unix_s < self._run.time_unix_s + GRACE_S and not final:
            return None
        if from_environment:
            return self._open(self._uri(), from_environment, now_unix_s)
        return self._create(now_unix_s) if may_create else None

    def _asked_run_id(self) -> tuple[str | None, str | None]:
        """(given to attach, from the environment): the second ranks below the run that the user has open."""
        given = self._run.settings.get("run_id")
        from_environment = os.environ.get("MLFLOW_RUN_ID")
        return (None, given) if given == from_environment else (given, from_environment)

    def _uri(self, run_id: str | None = None) -> str:
        if self._users and self._users.run_id == run_id:
            return self._users.tracking_uri
        return self._run.settings.get("tracking_uri") or default_uri()

    def _known_target(self) -> Target | None:
        """The run of an earlier agent, unless somebody now asks for another server."""
        known = self._state.target
        asked = self._run.settings.get("tracking_uri")
        return None if known and asked and without_credentials(asked) != known.tracking_uri else known

    def _open(self, uri: str, run_id: str, now_unix_s: float, *, ours: bool = False) -> OpenRun:
        ready_store(uri, now_unix_s)
        connection = Connection(uri)
        with connection.errors():
            info = connection.client.get_run(run_id).info
        if info.lifecycle_stage != "active":
            raise SinkError(f"MLflow run {run_id} was deleted", permanent=True)
        return self._settle(connection, Target(without_credentials(uri), run_id, str(info.experiment_id), ours))

    def _create(self, now_unix_s: float) -> OpenRun:
        uri = self._uri()
        ready_store(uri, now_unix_s)
        connection = Connection(uri)
        with connection.errors():
            experiment_id = _experiment_id(connection.client, self._run.settings.get("experiment"))
            # An earlier attempt may have created the run and lost the answer.
            quote = '"' if "'" in self._run.name else "'"
            wanted = f"tags.`{RUN_TAG}` = {quote}{self._run.name}{quote}"
            found = connection.client.search_runs([experiment_id], wanted, max_results=1)
            info = (found[0] if found else self._new_run(connection.client, experiment_id)).info
        return self._settle(connection, Target(without_credentials(uri), info.run_id, experiment_id, ours=True))

    def _new_run(self, client: Any, experiment_id: str) -> Any:
        tags = {
            RUN_TAG: self._run.name,
            "mlflow.user": _user(),
            "mlflow.source.name": self._run.script,
            "mlflow.source.type": "LOCAL",
        }
        started_ms = round(self._run.time_unix_s * 1000)
        return client.create_run(experiment_id, start_time=started_ms, tags=tags, run_name=self._run.name)

    def _settle(self, connection: Connection, target: Target) -> OpenRun:
        if target != self._state.target:
            self._state.switch_to(target)
            self._state.save()
        return OpenRun(connection, target)

    def _follow_user(self, opened: OpenRun, now_unix_s: float) -> OpenRun:
        users, (explicit, _) = self._users, self._asked_run_id()
        if users and opened.target.ours and users.run_id != opened.target.run_id and not explicit:
            self._state.moving_from = opened.target
            opened = self._open(users.tracking_uri, users.run_id, now_unix_s)
        if self._state.moving_from:
            _move(self._state.moving_from, opened)
            self.moved = True
            self._state.moving_from = None
            self._state.save()
        return opened


def _move(old: Target, to: OpenRun) -> None:
    """Copy the points of our own run to the user's, then delete ours. Safe to repeat: equal points are one."""
    source = Connection(old.tracking_uri)
    with source.errors():
        run = source.client.get_run(old.run_id)
        if run.info.lifecycle_stage != "active":
            return
        for key in run.data.metrics:
            history = source.client.get_metric_history(old.run_id, key)
            points = [Point(m.key, m.value, m.timestamp, m.step) for m in history]
            send_metrics(to.connection, to.target.run_id, points)
        source.client.set_terminated(old.run_id, "FINISHED")
        source.client.delete_run(old.run_id)


def _experiment_id(client: Any, name: str | None) -> str:
    """The experiment asked for, created if need be; else MLflow's own default."""
    if not name:
        return os.environ.get("MLFLOW_EXPERIMENT_ID") or "0"
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name))
        except Exception:
            # The user's process may have created it between the two calls.
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise SinkError(f"MLflow experiment {name!r} was deleted: restore it or choose another", permanent=True)
    return str(experiment.experiment_id)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container without an entry for the user id.
        return str(os.getuid())

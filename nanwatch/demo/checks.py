"""What a demo must leave behind, and which of it is missing."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanwatch.bundle.members import FINISHED_MEMBERS, TRAINER_MEMBERS
from nanwatch.bundle.reader import Bundle
from nanwatch.demo.receiver import Delivery
from nanwatch.errors import BundleError
from nanwatch.records import Incident

if TYPE_CHECKING:
    from nanwatch.sinks.mlflow_connection import Connection

LEAST_KEYS = 20
LEAST_POINTS = 3
CREATED = "nanwatch.incident.created"
_NEEDED_TAGS = ("nanwatch.status", "nanwatch.first_incident_step", "nanwatch.origin", "nanwatch.cause")
# The state of the optimizer belongs to incidents born in its step.
_NOT_ALWAYS = {"state/optimizer.safetensors"}


@dataclass(frozen=True)
class StoredRun:
    """What MLflow holds of the run."""

    run_id: str
    experiment_id: str
    status: str
    keys: int
    """`nanwatch/` metrics with a history."""
    points: int
    """Values under those keys."""
    artifacts: int
    """Files of the incident."""


def check_bundle(folder: Path, script: Path, planted_line: int) -> tuple[Incident | None, list[str]]:
    """The incident in `folder`, and what is wrong with its bundle or with the place that it names."""
    try:
        bundle = Bundle.open(folder)
        incident = bundle.incident
    except BundleError as e:
        return None, [str(e)]
    problems = [] if bundle.is_complete else [f"{folder} has no manifest: the agent did not finish it"]
    wanted = set(TRAINER_MEMBERS + FINISHED_MEMBERS) - _NOT_ALWAYS
    missing = sorted(wanted - bundle.members.keys())
    if missing:
        problems.append(f"the bundle lacks {', '.join(missing)}")
    origin = incident.origin
    if origin is None:
        problems.append("the incident has no origin")
    elif (origin.file, origin.line) != (str(script), planted_line):
        problems.append(f"the origin is {origin.file}:{origin.line}, the bug is at {script}:{planted_line}")
    return incident, problems


def check_deliveries(deliveries: list[Delivery], script: Path, planted_line: int) -> list[str]:
    """What is wrong with the webhooks that came in."""
    problems = [f"webhook {one.id} ({one.type}) was not signed correctly" for one in deliveries if not one.signed]
    created = {one.id: one for one in deliveries if one.type == CREATED}
    if len(created) != 1:
        came = dict(Counter(one.type for one in deliveries)) or "nothing"
        return [*problems, f"expected one {CREATED}, the receiver got {came}"]
    (delivery,) = created.values()
    if not re.search(rf"{re.escape(script.name)}:{planted_line}\b", json.dumps(delivery.body)):
        problems.append(f"the webhook does not name {script.name}:{planted_line}")
    return problems


def count_runs(connection: Connection) -> int:
    """Runs in the store."""
    return len(_runs(connection))


def check_store(connection: Connection, runs_before: int, incident_id: str) -> tuple[StoredRun | None, list[str]]:
    """The run that the demo logged, and what it lacks. Raises: SinkError."""
    client = connection.client
    runs = _runs(connection)
    if len(runs) != runs_before + 1:
        return None, [f"the store holds {len(runs) - runs_before} new runs instead of one"]
    with connection.errors():
        run = max(runs, key=lambda one: int(one.info.start_time))
        names = sorted(name for name in run.data.metrics if name.startswith("nanwatch/"))
        lengths = [len(client.get_metric_history(run.info.run_id, name)) for name in names]
        artifacts = _files(client, run.info.run_id, f"nanwatch/incidents/{incident_id}")
    keys = sum(1 for length in lengths if length >= LEAST_POINTS)
    problems = []
    if keys < LEAST_KEYS:
        problems.append(
            f"{keys} metrics with a history instead of {LEAST_KEYS}: {dict(zip(names, lengths, strict=True))}"
        )
    lacking = [tag for tag in _NEEDED_TAGS if tag not in run.data.tags]
    if lacking:
        problems.append(f"the run lacks the tags {', '.join(lacking)}")
    if not run.data.tags.get("mlflow.note.content"):
        problems.append("the run has no note")
    if run.info.status == "RUNNING":
        problems.append("the run is still RUNNING")
    if not any(path.endswith("/manifest.json") for path in artifacts):
        problems.append(f"the bundle in MLflow has no manifest, only {len(artifacts)} files")
    stored = StoredRun(run.info.run_id, run.info.experiment_id, run.info.status, keys, sum(lengths), len(artifacts))
    return stored, problems


def _runs(connection: Connection) -> list[Any]:
    with connection.errors():
        experiments = [one.experiment_id for one in connection.client.search_experiments()]
        return list(connection.client.search_runs(experiments, max_results=1000))


def _files(client: Any, run_id: str, path: str) -> list[str]:
    out: list[str] = []
    for one in client.list_artifacts(run_id, path):
        out += _files(client, run_id, one.path) if one.is_dir else [one.path]
    return out

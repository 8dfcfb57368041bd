"""What must survive a restart of the agent: `mlflow.json` in the run's folder.

Without it a second agent would create a second run, or upload an incident twice.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanwatch.bundle.private_file import write_private

SCHEMA = "nanwatch.mlflow/1"


@dataclass(frozen=True)
class Target:
    """One MLflow run."""

    tracking_uri: str
    run_id: str
    experiment_id: str
    ours: bool
    """The agent created it, so the agent has to end it."""


@dataclass
class MlflowState:
    """Kept in step with what was done on the server."""

    path: Path
    target: Target | None = None
    moving_from: Target | None = None
    """Our own run, whose points are on their way to `target`."""
    uploaded: list[str] = field(default_factory=list)
    """Incidents that are there, manifest included."""
    tags: dict[str, str] = field(default_factory=dict)
    """nanwatch's tags as last sent."""
    host_metrics: bool = False
    """The metrics of the host in this run are ours."""

    def switch_to(self, target: Target) -> None:
        """From now on it is `target`, in which nothing of ours is yet."""
        self.target = target
        self.uploaded, self.tags, self.host_metrics = [], {}, False

    def save(self) -> None:
        """Write `mlflow.json`, whole or not at all, readable by the user alone."""
        data = {"schema": SCHEMA, **{f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)[1:]}}
        write_private(self.path, json.dumps(data, indent=1).encode())

    @classmethod
    def load(cls, path: Path) -> MlflowState:
        """The state in `path`; an empty one if there is none that can be read."""
        try:
            data = json.loads(path.read_text())
            return cls(
                path=path,
                target=_target(data["target"]),
                moving_from=_target(data["moving_from"]),
                uploaded=list(data["uploaded"]),
                tags=dict(data["tags"]),
                host_metrics=bool(data["host_metrics"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return cls(path=path)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _target(data: dict[str, Any] | None) -> Target | None:
    return None if data is None else Target(**data)

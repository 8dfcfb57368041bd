"""Finishes the bundles that the trainer has begun: history, report and pictures, the manifest last."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nanwatch.bundle.members import EVIDENCE, MANIFEST, is_safe_id
from nanwatch.bundle.upload import UploadPolicy
from nanwatch.errors import BundleError
from nanwatch.records import Incident
from nanwatch.sinks.sink import FinishedIncident

if TYPE_CHECKING:
    import pyarrow as pa

Finish = Callable[[Path, "pa.Table", UploadPolicy], Incident]
History = Callable[[int], "pa.Table"]
"""Step -> the statistics of the last steps up to it."""


def finish_with_report(folder: Path, history: pa.Table, upload: UploadPolicy) -> Incident:
    """The report room's finish, imported at the first incident: most runs never need its templates."""
    from nanwatch.report.finish import finish

    return finish(folder, history, upload)


class IncidentFinisher:
    """Finishes each incident of a run once and remembers which ones were handed on.

    `upload` says at the time of asking what will leave the machine and where to, for the report to tell.
    """

    def __init__(
        self,
        run_dir: Path,
        history: History,
        upload: Callable[[], UploadPolicy],
        finish: Finish = finish_with_report,
    ) -> None:
        self._incidents = run_dir / "incidents"
        self._history = history
        self._upload = upload
        self._finish = finish
        self._handed_on: set[str] = set()

    def finish(self, incident_id: str) -> FinishedIncident | None:
        """The incident, with its bundle whole on disk; None when it was handed on before.

        Raises: BundleError or OSError when its folder cannot be finished; it is not tried again by this agent.
        """
        if incident_id in self._handed_on:
            return None
        if not is_safe_id(incident_id):
            raise BundleError(f"{incident_id!r:.200} is no incident's id")
        self._handed_on.add(incident_id)
        folder = self._incidents / incident_id
        if not folder.is_dir():
            raise BundleError(f"the folder of incident {incident_id} is missing")
        facts = _facts(folder)
        if (folder / MANIFEST).exists():
            return FinishedIncident(facts, folder)
        return FinishedIncident(self._finish(folder, self._history(facts.step), self._upload()), folder)

    def unfinished(self) -> list[str]:
        """Incidents with the trainer's evidence and without a manifest, oldest first: a trainer or agent died there."""
        folders = sorted(p for p in self._incidents.glob("*") if p.is_dir() and is_safe_id(p.name))
        return [
            p.name
            for p in folders
            if p.name not in self._handed_on and (p / EVIDENCE).exists() and not (p / MANIFEST).exists()
        ]

    def torn(self) -> list[str]:
        """Folders that the trainer was still filling when it died: their evidence is not whole."""
        return sorted(p.name for p in self._incidents.glob("*.tmp") if p.is_dir())


def _facts(folder: Path) -> Incident:
    try:
        return Incident.from_json(json.loads((folder / "incident.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise BundleError(f"incident.json of {folder.name} cannot be read: {type(e).__name__}: {e}") from e

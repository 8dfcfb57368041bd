"""An incident's bundle on its way to MLflow: what people read first goes first, the manifest last.

A bundle there without `manifest.json` is a half upload. What stays on the machine, because the user said so or because
it is large, is named in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nanwatch.bundle.manifest import read_manifest
from nanwatch.bundle.members import MANIFEST, is_safe_name
from nanwatch.bundle.upload import UploadPolicy
from nanwatch.errors import BundleError, SinkError
from nanwatch.sinks.mlflow_run import OpenRun

ROOT = "nanwatch"
INCIDENTS = f"{ROOT}/incidents"

_FIRST = ("incident.json", "report.html", "traceback.txt", "incident.md")


@dataclass(frozen=True)
class UploadPlan:
    """The members of a bundle, in the order of their upload, and why the others stay."""

    members: tuple[str, ...]
    withheld: dict[str, str]
    """Member -> reason."""


def plan(folder: Path, policy: UploadPolicy) -> UploadPlan:
    """What of the bundle in `folder` goes to MLflow. Only members of its manifest do.

    Raises: SinkError when the manifest cannot be read.
    """
    try:
        members = read_manifest(folder).members
    except BundleError as e:
        raise SinkError(f"{folder}: {e}", permanent=True) from e
    # The settings may have become stricter since the bundle was finished: both have a say.
    withheld = policy.stays(folder) | {name: entry.local for name, entry in members.items() if entry.local}
    sizes: dict[str, int] = {}
    for name, entry in members.items():
        if name not in withheld and not _is_plain_member(folder, name):
            withheld[name] = "not a plain file of the bundle"
        elif name not in withheld:
            sizes[name] = entry.bytes
    order = [*(n for n in _FIRST if n in sizes), *sorted((n for n in sizes if n not in _FIRST), key=lambda n: sizes[n])]
    return UploadPlan((*order, MANIFEST), withheld)


class Uploader:
    """Uploads files and remembers which are there, so that a second try goes on where the first one stopped."""

    def __init__(self) -> None:
        self.sent = 0
        self.sent_bytes = 0
        self.dropped: dict[str, int] = {}
        self._done: set[tuple[str, str]] = set()

    def incident(self, run: OpenRun, name: str, folder: Path, policy: UploadPolicy) -> UploadPlan:
        """Upload the bundle in `folder` to `nanwatch/incidents/<name>/`; what cannot be taken is withheld too.

        Raises: SinkError when it is worth another try.
        """
        planned = plan(folder, policy)
        withheld = dict(planned.withheld)
        where = f"{INCIDENTS}/{name}"
        for member in planned.members:
            parent = PurePosixPath(where, member).parent.as_posix()
            if not self.file(run, folder / member, parent):
                withheld[member] = "refused by the server"
        return UploadPlan(planned.members, withheld)

    def file(self, run: OpenRun, path: Path, artifact_folder: str) -> bool:
        """Upload one file; False when the server will never take it (no right to, too large for it)."""
        key = (run.target.run_id, f"{artifact_folder}/{path.name}")
        if key in self._done:
            return True
        size = path.stat().st_size
        try:
            with run.connection.errors():
                run.connection.client.log_artifact(run.target.run_id, str(path), artifact_folder)
        except SinkError as e:
            if not e.permanent:
                raise
            self.dropped["artifact_refused"] = self.dropped.get("artifact_refused", 0) + 1
            return False
        self._done.add(key)
        self.sent += 1
        self.sent_bytes += size
        return True

    def document(self, run: OpenRun, content: dict[str, Any] | str, artifact_file: str) -> None:
        """Upload a small JSON document or text, replacing an older one. A server that refuses it is left in peace."""
        try:
            with run.connection.errors():
                if isinstance(content, str):
                    run.connection.client.log_text(run.target.run_id, content, artifact_file)
                else:
                    run.connection.client.log_dict(run.target.run_id, content, artifact_file)
        except SinkError as e:
            if not e.permanent:
                raise
            self.dropped["artifact_refused"] = self.dropped.get("artifact_refused", 0) + 1
            return
        self.sent += 1


def _is_plain_member(folder: Path, name: str) -> bool:
    path = folder / name
    return is_safe_name(name) and not path.is_symlink() and path.is_file()

"""An incident's bundle on its way to MLflow: what people read first goes first, the manifest last.

A bundle there without `manifest.json` is a half upload. What stays on the machine, because the user said so or because
it is large, is named in `withheld.json` beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from nanwatch.errors import SinkError
from nanwatch.sinks.mlflow_run import OpenRun

ROOT = "nanwatch"
INCIDENTS = f"{ROOT}/incidents"

_MANIFEST = "manifest.json"
_FIRST = ("incident.json", "report.html", "traceback.txt", "incident.md")
_MODEL_STATE = ("state/parameters.safetensors", "state/optimizer.safetensors", "state/buffers.safetensors")
_PRIVACY = ("none", "stats", "rows", "full")
_MIB = 1024 * 1024


@dataclass(frozen=True)
class UploadPolicy:
    """What may leave the machine; values as in Settings."""

    batch: str
    parameters: str
    max_mib: float


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
        listed = json.loads((folder / _MANIFEST).read_text())["members"]
    except (OSError, ValueError, KeyError) as e:
        raise SinkError(f"{folder / _MANIFEST} cannot be read: {e}", permanent=True) from e
    batch_may_go = _batch_may_go(folder, policy.batch)
    sizes: dict[str, int] = {}
    withheld: dict[str, str] = {}
    for name in listed:
        path = folder / name
        if not _is_plain_member(folder, name):
            withheld[name] = "not a plain file of the bundle"
        elif name.startswith("batch/") and not batch_may_go:
            withheld[name] = f"upload_batch={policy.batch}"
        elif name in _MODEL_STATE and policy.parameters != "full":
            withheld[name] = f"upload_parameters={policy.parameters}"
        elif path.stat().st_size > policy.max_mib * _MIB:
            withheld[name] = f"larger than max_upload_mib={policy.max_mib:g}"
        else:
            sizes[name] = path.stat().st_size
    sizes.pop(_MANIFEST, None)
    order = [*(n for n in _FIRST if n in sizes), *sorted((n for n in sizes if n not in _FIRST), key=lambda n: sizes[n])]
    return UploadPlan((*order, _MANIFEST), withheld)


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
            if member == _MANIFEST and withheld:
                self.document(run, {"schema": "nanwatch.withheld/1", "members": withheld}, f"{where}/withheld.json")
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
    pure = PurePosixPath(name)
    path = folder / name
    return not pure.is_absolute() and ".." not in pure.parts and not path.is_symlink() and path.is_file()


def _batch_may_go(folder: Path, allowed: str) -> bool:
    """Whether as much as was captured of the batch may leave; unknown counts as all of it."""
    if allowed == "full":
        return True
    try:
        captured = json.loads((folder / "batch" / "tree.json").read_text())["captured"]
    except (OSError, ValueError, KeyError, TypeError):
        captured = "full"
    if captured not in _PRIVACY or allowed == "none":
        return False
    return _PRIVACY.index(captured) <= _PRIVACY.index(allowed)

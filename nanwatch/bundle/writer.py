"""The trainer's end of a bundle: `<id>.tmp/` is filled member by member and renamed to `<id>` when it is whole."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanwatch.bundle.manifest import write_evidence
from nanwatch.bundle.members import TRAINER_MEMBERS, is_safe_id
from nanwatch.bundle.private_file import sync_folder, write_private
from nanwatch.bundle.tensors import save_tensors
from nanwatch.errors import BundleError
from nanwatch.records import json_ready

if TYPE_CHECKING:
    from nanwatch.bundle.tree import Capture


class EvidenceWriter:
    """Writes one incident's evidence into `incidents_dir`. Folders are 0700, files 0600.

    Raises: BundleError for an id or member name that is not allowed, OSError when the disk refuses.
    """

    def __init__(self, incidents_dir: Path, incident_id: str) -> None:
        if not is_safe_id(incident_id):
            raise BundleError(f"{incident_id!r:.200} cannot name an incident's folder")
        self.incident_id = incident_id
        self.folder = Path(incidents_dir) / f"{incident_id}.tmp"
        self._final = Path(incidents_dir) / incident_id
        if self._final.exists():
            raise BundleError(f"{self._final} exists already")
        os.makedirs(incidents_dir, mode=0o700, exist_ok=True)
        try:
            os.mkdir(self.folder, mode=0o700)
        except FileExistsError:
            raise BundleError(f"{self.folder} exists already") from None

    def json(self, name: str, obj: Any) -> None:
        """Write a JSON member; non-finite numbers become strings."""
        self.text(name, json.dumps(json_ready(obj), allow_nan=False))

    def text(self, name: str, text: str) -> None:
        """Write a text member. Lone surrogates, which file names can bring in, are replaced."""
        write_private(self._path(name), text.encode("utf-8", errors="replace"))

    def tensors(
        self,
        name: str,
        tree: Any,
        *,
        mode: Capture = "full",
        rows: Sequence[int] = (),
        batch_size: int | None = None,
        max_mib: float | None = None,
        redact: Callable[[str, Any], Any] | None = None,
        hashes: bool = False,
    ) -> dict[str, Any]:
        """Write `<name>.safetensors` and return the description of `tree` that belongs into a `tree.json`.

        See `save_tensors` for the arguments and the description. No file is written when values were withheld.
        """
        path = self._path(f"{name}.safetensors")
        return save_tensors(
            path, tree, mode=mode, rows=rows, batch_size=batch_size, max_mib=max_mib, redact=redact, hashes=hashes
        )

    def commit(self) -> Path:
        """Close the evidence and give the folder its name; returns it."""
        write_evidence(self.folder, self.incident_id)
        for name in ("batch", "state"):
            if (self.folder / name).is_dir():
                sync_folder(self.folder / name)
        sync_folder(self.folder)
        try:
            os.rename(self.folder, self._final)
        except OSError as e:
            raise BundleError(f"{self._final} cannot be made from {self.folder.name}: {e.strerror}") from e
        sync_folder(self._final.parent)
        return self._final

    def abandon(self) -> None:
        """Remove what was written so far."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        if name not in TRAINER_MEMBERS:
            raise BundleError(
                f"{name!r:.200} is no member that the trainer writes; there are: {', '.join(TRAINER_MEMBERS)}"
            )
        path = self.folder / name
        if path.parent != self.folder:
            os.makedirs(path.parent, mode=0o700, exist_ok=True)
        return path

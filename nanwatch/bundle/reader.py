"""Opens a bundle for reading. Nothing in it is executed, and nothing is parsed before its hash was checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from nanwatch.bundle.manifest import Entry, Evidence, Manifest, read_json, read_manifest, verify, verify_evidence
from nanwatch.bundle.members import EVIDENCE, MANIFEST
from nanwatch.errors import BundleError
from nanwatch.records import Incident

SCHEMA = "nanwatch.incident/1"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `is_complete`: the manifest is there; otherwise only the trainer's evidence is."""

    folder: Path
    is_complete: bool
    members: dict[str, Entry]

    @classmethod
    def open(cls, folder: Path | str) -> Bundle:
        """The bundle in `folder`, verified against its manifest, or against its evidence while it is unfinished.

        Raises: BundleError that says what is wrong with it.
        """
        folder = Path(folder)
        complete = (folder / MANIFEST).exists()
        if not complete and not (folder / EVIDENCE).exists():
            raise BundleError(f"{folder} is no bundle: it has neither {MANIFEST} nor {EVIDENCE}")
        problems = verify(folder) if complete else verify_evidence(folder)
        if problems:
            raise BundleError(f"{folder} cannot be trusted: " + "; ".join(problems[:5]))
        index: Manifest | Evidence
        index = read_manifest(folder) if complete else Evidence.model_validate(read_json(folder / EVIDENCE))
        return cls(folder, complete, index.members)

    @cached_property
    def incident(self) -> Incident:
        """The facts of the incident. Raises: BundleError for an unknown version or a malformed member."""
        data = self.json("incident.json")
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            found = data.get("schema") if isinstance(data, dict) else type(data).__name__
            raise BundleError(f"incident.json has schema {found!r:.80}; this version reads {SCHEMA}")
        try:
            return Incident.from_json(data)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
            raise BundleError(f"incident.json is malformed: {type(e).__name__}: {e}") from e

    def has(self, name: str) -> bool:
        """Whether the member is in the index and here; one that stayed on the training machine is not here."""
        return name in self.members and (self.folder / name).is_file()

    def path(self, name: str) -> Path:
        """Where a member is. Raises: BundleError when the bundle does not have it."""
        if name not in self.members:
            raise BundleError(f"this bundle has no {name}")
        reason = self.members[name].local
        if not (self.folder / name).is_file():
            raise BundleError(f"{name} is not here{f': {reason}' if reason else ''}")
        return self.folder / name

    def json(self, name: str) -> Any:
        """The content of a JSON member. Raises: BundleError."""
        return read_json(self.path(name))

"""The two indexes of a bundle: `evidence.json` closes the trainer's part, `manifest.json` closes the whole.

Both hold the SHA-256 and size of each member, so that an interrupted, altered or half-uploaded bundle is seen as one.
A hash says that nothing changed since it was written, not who wrote it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from nanwatch.bundle.members import (
    EVIDENCE,
    MANIFEST,
    MAX_BUNDLE_BYTES,
    MAX_MEMBERS,
    MAX_TEXT_BYTES,
    is_safe_name,
    media_type,
)
from nanwatch.bundle.private_file import sha256_of, sync_folder, write_private
from nanwatch.errors import BundleError

M = TypeVar("M", bound=BaseModel)


class Entry(BaseModel):
    """What an index says of one member."""

    model_config = ConfigDict(frozen=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)
    media_type: str = "application/octet-stream"
    local: str | None = None
    """Why this member was not uploaded; None for a member that goes wherever the bundle goes."""


class Manifest(BaseModel):
    """`manifest.json`: every member but itself."""

    model_config = ConfigDict(frozen=True)

    schema_: Literal["nanwatch.manifest/1"] = Field(alias="schema")
    incident: str
    members: dict[str, Entry]


class Evidence(BaseModel):
    """`evidence.json`: what the trainer wrote."""

    model_config = ConfigDict(frozen=True)

    schema_: Literal["nanwatch.evidence/1"] = Field(alias="schema")
    incident: str
    members: dict[str, Entry]


def write_evidence(folder: Path, incident_id: str) -> None:
    """Close the trainer's part of a bundle."""
    index = Evidence(schema="nanwatch.evidence/1", incident=incident_id, members=_index(folder, {EVIDENCE}, {}))
    _write(folder / EVIDENCE, index)


def write_manifest(folder: Path, incident_id: str, local: Mapping[str, str] | None = None) -> Manifest:
    """Close a bundle: index every member and write `manifest.json`, last, by rename.

    `local`: members that stay on this machine -> why.
    """
    index = Manifest(
        schema="nanwatch.manifest/1", incident=incident_id, members=_index(folder, {MANIFEST}, local or {})
    )
    _write(folder / MANIFEST, index)
    sync_folder(folder)
    return index


def verify(folder: Path) -> list[str]:
    """The problems of a finished bundle, in plain words; empty when it is what its manifest says."""
    return _problems(folder, MANIFEST, Manifest, closed=True)


def verify_evidence(folder: Path) -> list[str]:
    """The problems of the trainer's part; members added later are not its business."""
    return _problems(folder, EVIDENCE, Evidence, closed=False)


def read_json(path: Path) -> Any:
    """The content of a JSON member.

    Raises: BundleError when it is missing, too large, not JSON, nested beyond reason or has a key twice.
    """
    try:
        if path.lstat().st_size > MAX_TEXT_BYTES:
            raise BundleError(f"{path.name} is larger than {MAX_TEXT_BYTES} bytes")
        return json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_doubles)
    except (OSError, ValueError, RecursionError) as e:
        raise BundleError(f"{path.name} cannot be read: {e}") from e


def read_manifest(folder: Path) -> Manifest:
    """The manifest as it stands, unverified. Raises: BundleError."""
    return _read(folder / MANIFEST, Manifest)


def _problems(folder: Path, index_name: str, model: type[Manifest | Evidence], *, closed: bool) -> list[str]:
    # Cheap and safe checks first: nothing is opened before names and sizes are known to be harmless.
    try:
        present, problems = _survey(folder)
        if problems:
            return problems
        index = _read(folder / index_name, model)
    except (BundleError, OSError) as e:
        return [str(e)]
    unsafe = [name for name in index.members if not is_safe_name(name)]
    if unsafe:
        return [f"{index_name} names {name!r:.200}, which does not stay inside the bundle" for name in unsafe]
    if closed:
        extra = present.keys() - index.members.keys() - {index_name}
        problems += [f"{name} is not in {index_name}" for name in sorted(extra)]
    for name, entry in index.members.items():
        if name not in present:
            if entry.local is None:
                problems.append(f"{name} is missing")
        elif present[name] != entry.bytes:
            problems.append(f"{name} has {present[name]} bytes, {index_name} says {entry.bytes}")
        elif sha256_of(folder / name) != entry.sha256:
            problems.append(f"{name} was altered: its SHA-256 is not the one in {index_name}")
    return problems


def _survey(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Names and sizes of all files below `folder`, and whatever has no place in a bundle."""
    present: dict[str, int] = {}
    problems: list[str] = []
    if folder.is_symlink() or not folder.is_dir():
        return {}, [f"{folder} is not a folder"]
    for parent, folders, files in os.walk(folder, followlinks=False):
        for name in [*folders, *files]:
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            status = path.lstat()
            if stat.S_ISDIR(status.st_mode):
                continue
            if not stat.S_ISREG(status.st_mode):
                problems.append(f"{relative!r:.200} is a link or a special file; a bundle holds plain files only")
            elif not is_safe_name(relative):
                problems.append(f"{relative!r:.200} is not a name that a bundle may have")
            present[relative] = status.st_size
            if len(present) > MAX_MEMBERS:
                return present, [f"more than {MAX_MEMBERS} files"]
    if sum(present.values()) > MAX_BUNDLE_BYTES:
        problems.append(f"larger than {MAX_BUNDLE_BYTES} bytes")
    return present, problems


def _index(folder: Path, left_out: set[str], local: Mapping[str, str]) -> dict[str, Entry]:
    present, problems = _survey(folder)
    if problems:
        raise BundleError(f"{folder.name}: " + "; ".join(problems))
    return {
        name: Entry(sha256=sha256_of(folder / name), bytes=size, media_type=media_type(name), local=local.get(name))
        for name, size in sorted(present.items())
        if name not in left_out
    }


def _read(path: Path, model: type[M]) -> M:
    try:
        return model.model_validate(read_json(path))
    except ValidationError as e:
        first = e.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path.name} is not understood: {where}: {first['msg']}") from None


def _write(path: Path, index: Manifest | Evidence) -> None:
    text = json.dumps(index.model_dump(mode="json", by_alias=True, exclude_none=True), indent=1)
    write_private(path, text.encode())


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("a key appears twice")
    return out

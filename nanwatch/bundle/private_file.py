"""Files of a bundle: written whole or not at all, readable by their owner only."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

_CHUNK_BYTES = 1024 * 1024


def write_private(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, force it to the disk and rename: a reader sees all of it or nothing."""
    part = part_of(path)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(fd, "wb") as f:
        f.write(data)
    seal(part, path)


def part_of(path: Path) -> Path:
    """Where `path` is written before it is whole."""
    return path.with_name(path.name + ".part")


def seal(part: Path, path: Path) -> None:
    """Make a written `part` private and durable, and give it its name."""
    os.chmod(part, 0o600)
    fd = os.open(part, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.replace(part, path)


def sync_folder(folder: Path) -> None:
    """Force the names in `folder` to the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while chunk := f.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

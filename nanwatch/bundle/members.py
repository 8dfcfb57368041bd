"""The members of a bundle: which files there are, what they are, and which names are safe to open."""

from __future__ import annotations

import re
from pathlib import Path

TRAINER_MEMBERS = (
    "incident.json",
    "traceback.txt",
    "batch/tree.json",
    "batch/tensors.safetensors",
    "state/tree.json",
    "state/rng.safetensors",
    "state/buffers.safetensors",
    "state/parameters.safetensors",
    "state/optimizer.safetensors",
    "program.json",
    "graph.json",
    "preview.json",
    "environment.json",
)
"""What the trainer may write; `evidence.json` closes it."""

FINISHED_MEMBERS = (
    "history.parquet",
    "incident.md",
    "graph.dot",
    "graph.svg",
    "replay.py",
    "upload.json",
    "report.html",
)
"""What is added when the bundle is finished; `manifest.json` closes it."""

EVIDENCE = "evidence.json"
MANIFEST = "manifest.json"

MAX_MEMBERS = 10_000
MAX_TEXT_BYTES = 64 * 1024 * 1024
MAX_BUNDLE_BYTES = 16 * 1024**3

_MEDIA_TYPES = {
    ".json": "application/json",
    ".txt": "text/plain",
    ".md": "text/markdown",
    ".dot": "text/vnd.graphviz",
    ".svg": "image/svg+xml",
    ".html": "text/html",
    ".py": "text/x-python",
    ".parquet": "application/vnd.apache.parquet",
    ".safetensors": "application/vnd.safetensors",
}
_SAFE_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,99}")
_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}")


def media_type(path: str) -> str:
    """The media type of a member, by its ending."""
    return _MEDIA_TYPES.get(Path(path).suffix, "application/octet-stream")


def is_safe_name(path: str) -> bool:
    """Whether a name found in a bundle stays below its folder: relative, no `..`, no hidden parts, no odd letters."""
    parts = path.split("/")
    return len(parts) <= 4 and all(_SAFE_PART.fullmatch(part) for part in parts)


def is_safe_id(incident_id: str) -> bool:
    """Whether an incident's id can be the name of its folder."""
    return bool(_SAFE_ID.fullmatch(incident_id)) and not incident_id.endswith(".tmp")

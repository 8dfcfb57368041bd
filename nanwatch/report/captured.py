"""What the bundle holds of the run, how much of the batch was kept, and what left the machine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanwatch.report.evidence import Batch, Upload
from nanwatch.report.figures import bytes_text, shape_text

_WHAT = {
    "incident.json": "the facts on this page, for machines",
    "traceback.txt": "the stack of the origin and the chain to the loss",
    "batch/tree.json": "what the model was given: structure, shapes, statistics",
    "batch/tensors.safetensors": "the values of the batch",
    "state/tree.json": "description of the saved state",
    "state/rng.safetensors": "random number generators before the step",
    "state/buffers.safetensors": "buffers before the step",
    "state/parameters.safetensors": "parameters before the step",
    "state/optimizer.safetensors": "the optimizer's state before the step",
    "program.json": "the loss code as it ran, precision and training flags",
    "graph.json": "module graph and operations",
    "preview.json": "source lines and offending rows shown here",
    "environment.json": "versions, device, flags",
    "history.parquet": "statistics of the steps before",
    "replay.py": "runs the step again",
}
_MODES = {
    "full": "the whole batch",
    "rows": "the offending rows only",
    "stats": "statistics of the batch, no values",
    "none": "nothing of the batch but shapes",
}
_MAX_LEAVES = 60


@dataclass(frozen=True)
class Holding:
    """One member of the bundle."""

    path: str
    what: str
    size: str
    stays: str | None
    """Why it was held back on the training machine."""


@dataclass(frozen=True)
class Leaf:
    """One tensor of the batch."""

    path: str
    shape: str
    dtype: str
    statistics: dict[str, Any]
    is_kept: bool


@dataclass(frozen=True)
class Privacy:
    """The badge: what was captured, and where it went."""

    captured: str
    reason: str | None
    left: str


def holdings(folder: Path, upload: Upload | None) -> list[Holding]:
    """The members that are there so far."""
    stays = upload.stays if upload else {}
    return [
        Holding(path, what, bytes_text((folder / path).stat().st_size), stays.get(path))
        for path, what in _WHAT.items()
        if (folder / path).is_file()
    ]


def privacy(batch: Batch | None, upload: Upload | None) -> Privacy:
    """What the badge says."""
    captured = _MODES.get(batch.captured, batch.captured) if batch else "nothing of the batch"
    reason = batch.reason if batch else None
    if upload is None:
        return Privacy(captured, reason, "whether the bundle was uploaded is not recorded in it")
    if upload.destination is None:
        return Privacy(captured, reason, "nothing was uploaded: the bundle stays on the training machine")
    if not upload.stays:
        return Privacy(captured, reason, f"all members go to {upload.destination}")
    held = ", ".join(upload.stays)
    return Privacy(captured, reason, f"goes to {upload.destination}, except {held}")


def leaves(batch: Batch) -> tuple[list[Leaf], int]:
    """The tensors of the batch, as many as a table bears, and how many more there are."""
    found: list[Leaf] = []
    for i, entry in enumerate(batch.entries):
        prefix = f"{entry.get('module') or 'model'}." if len(batch.entries) > 1 or entry.get("module") else ""
        for part in ("args", "kwargs"):
            found += _walk(entry.get(part), f"{prefix}{part}" if i == 0 or prefix else f"{i}.{part}")
    for call in batch.outside:
        name = str(call.get("function") or "loss").rsplit(".", 1)[-1]
        for part in ("args", "kwargs"):
            found += _walk(call.get(part), f"{name}.{part}")
    return found[:_MAX_LEAVES], max(0, len(found) - _MAX_LEAVES)


def _walk(node: Any, path: str) -> Iterator[Leaf]:
    if not isinstance(node, dict):
        return
    if node.get("kind") == "numpy":
        node = node.get("tensor", {})
    if node.get("kind") == "tensor":
        kept = "key" in node or "parts" in node
        yield Leaf(path, shape_text(node.get("shape", ())), str(node.get("dtype")), node.get("statistics") or {}, kept)
        return
    for i, item in enumerate(node.get("items", ())):
        pair = isinstance(item, list) and len(item) == 2
        name, inner = (item[0] if isinstance(item[0], str) else i, item[1]) if pair else (i, item)
        names = node.get("fields")
        yield from _walk(inner, f"{path}.{names[i] if names else name}")

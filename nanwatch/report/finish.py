"""Makes a whole bundle of what the trainer left: history, pictures, report, and the manifest that closes it."""

from __future__ import annotations

import io
import json
import logging
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from nanwatch.bundle.manifest import verify, verify_evidence, write_manifest
from nanwatch.bundle.members import MANIFEST
from nanwatch.bundle.private_file import write_private
from nanwatch.errors import BundleError
from nanwatch.records import Incident
from nanwatch.report.dot import dot_text
from nanwatch.report.drawing import draw_modules
from nanwatch.report.evidence import Graph, read_member
from nanwatch.report.markdown import markdown
from nanwatch.report.page import read_incident, render

log = logging.getLogger("nanwatch.report")

if TYPE_CHECKING:
    import pyarrow as pa

    from nanwatch.bundle.upload import UploadPolicy


def finish(folder: Path, history: pa.Table | None, upload: UploadPolicy | None = None) -> Incident:
    """Finish the bundle in `folder` and return its facts; a bundle that is whole already is left as it is.

    `history`: the agent's rows of the last steps. `upload`: what will leave the machine and where to; the report says
    so, and holds no values of the batch that may not leave.

    Raises: BundleError when the trainer's evidence is missing or was altered, OSError when the disk refuses.
    """
    if (folder / MANIFEST).exists() and not verify(folder):
        return read_incident(folder)
    problems = verify_evidence(folder)
    if problems:
        raise BundleError(f"{folder} cannot be finished: " + "; ".join(problems[:5]))
    incident = read_incident(folder)
    if history is not None:
        buffer = io.BytesIO()
        pq.write_table(history, buffer, compression="zstd")
        write_private(folder / "history.parquet", buffer.getvalue())
    if upload is not None:
        _write_json(folder / "upload.json", upload.to_json(folder))
    _write_text(folder / "incident.md", markdown(incident))
    _draw(folder, incident)
    _write_text(folder / "replay.py", (files("nanwatch.report") / "templates" / "replay.py.txt").read_text())
    _write_text(folder / "report.html", render(folder))
    write_manifest(folder, incident.id, upload.stays(folder) if upload else None)
    return incident


def _draw(folder: Path, incident: Incident) -> None:
    """Write the pictures, as far as they can be drawn: a bundle without one is worth more than none."""
    try:
        graph = read_member(folder, "graph.json", Graph)
        if graph is None:
            return
        dot = dot_text(graph)
        drawing = draw_modules(graph, incident.origin.phase if incident.origin else None)
    except Exception as e:
        log.warning("%s: the module graph cannot be drawn: %s: %s", folder.name, type(e).__name__, e)
        return
    _write_text(folder / "graph.dot", dot)
    if drawing is not None:
        _write_text(folder / "graph.svg", drawing.standalone())


def _write_text(path: Path, text: str) -> None:
    write_private(path, text.encode("utf-8", errors="replace"))


def _write_json(path: Path, obj: object) -> None:
    _write_text(path, json.dumps(obj, allow_nan=False))

"""One incident as one HTML file: no request to anywhere, no link that a sandbox would kill, safe to open from anyone.

The page shows values that strangers may have written (module names, source lines, exceptions). Everything goes through
autoescaping, and a Content-Security-Policy with the hashes of the page's own style and script forbids all else.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import Any, TypeVar

import pyarrow.parquet as pq
from jinja2 import Environment as Jinja
from jinja2 import FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel

from nanwatch.bundle.manifest import read_json
from nanwatch.errors import BundleError
from nanwatch.records import Incident
from nanwatch.report import captured, figures, story
from nanwatch.report.chain import fold, short_op
from nanwatch.report.drawing import draw_modules, draw_operations, styles
from nanwatch.report.evidence import Batch, Environment, Graph, Preview, Source, Upload, read_member
from nanwatch.report.heatmap import heat_map
from nanwatch.report.history import History, read_history
from nanwatch.report.offenders import element_value, offender, row_text, rows_text
from nanwatch.report.panels import Panel, growth_panel, history_panels
from nanwatch.report.pictures import row_view

_TEMPLATES = Path(__file__).parent / "templates"
_MAX_TRACEBACK_CHARS = 24_000
_MAX_LINE_CHARS = 400
_MAX_ROWS = 12
_MAX_RANGES = 12

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Line:
    """One line of source."""

    number: int
    text: str
    is_marked: bool


class _Reader:
    """Reads members for the page; one that cannot be read costs its own section, and the page says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def member(self, name: str, model: type[M]) -> M | None:
        return self.attempt(name, lambda: read_member(self.folder, name, model))

    def attempt(self, what: str, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except Exception as e:  # a page with a hole is worth more than no page
            self.problems.append(f"{what}: {e if isinstance(e, BundleError) else f'{type(e).__name__}: {e}'}"[:300])
            return None


def render(folder: Path) -> str:
    """The page of the bundle in `folder`, from the members that are there.

    Raises: BundleError when incident.json cannot be read; any other member that cannot is named on the page.
    """
    incident = read_incident(folder)
    read = _Reader(folder)
    page = _context(incident, read)
    css, script = _asset("style.css") + styles(), _asset("script.js")
    return _jinja().get_template("report.html.j2").render(
        **page,
        css=Markup(css),  # noqa: S704 - our own file
        script=Markup(script),  # noqa: S704 - our own file
        csp=f"default-src 'none'; img-src data:; style-src '{_hash(css)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'",
    )  # fmt: skip


def read_incident(folder: Path) -> Incident:
    """The facts of the incident. Raises: BundleError."""
    try:
        return Incident.from_json(read_json(folder / "incident.json"))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as e:
        raise BundleError(f"incident.json is malformed: {type(e).__name__}: {e}") from e


def _context(incident: Incident, read: _Reader) -> dict[str, Any]:
    graph = read.member("graph.json", Graph)
    preview = read.member("preview.json", Preview) or Preview()
    batch = read.member("batch/tree.json", Batch)
    upload = read.member("upload.json", Upload)
    environment = read.member("environment.json", Environment)
    history = read.attempt("history.parquet", lambda: _history(read.folder, incident.rank))
    phase = incident.origin.phase if incident.origin else None
    rows_stay = upload is not None and "preview.json" in upload.stays
    rows = () if rows_stay else preview.rows
    growth = read.attempt("magnitudes", lambda: growth_panel(preview.magnitudes, incident))
    modules = read.attempt("graph", lambda: draw_modules(graph, phase) if graph else None)
    operations = read.attempt("operations", lambda: draw_operations(graph) if graph else None)
    return {
        "incident": incident,
        "origin": incident.origin,
        "story": story,
        "source": _lines(preview.source),
        "traceback": _text(read.folder / "traceback.txt"),
        "rows": [v for r in rows[:_MAX_ROWS] if (v := read.attempt("preview.json", lambda r=r: row_view(r)))],  # type: ignore[misc]
        "rows_left_out": max(0, len(rows) - _MAX_ROWS),
        "rows_stay": upload.stays.get("preview.json") if upload else None,
        "chain": fold(incident.path),
        "offending": rows_text(incident),
        "at_fault": offender(incident.origin.inputs) if incident.origin else None,
        "modules_svg": _svg(modules),
        "operations_svg": _svg(operations),
        "origin_module": graph.origin if graph else None,
        "panels": _safe_panels(read, history, incident),
        "heat": read.attempt("heat map", lambda: heat_map(history) if history else None),
        "ranges": history.ranges_before(incident.step)[:_MAX_RANGES] if history else [],
        "tensors": len(history.tensors_K) if history else 0,
        "growth": growth,
        "privacy": captured.privacy(batch, upload),
        "leaves": read.attempt("batch/tree.json", lambda: captured.leaves(batch) if batch else None) or ([], 0),
        "holdings": captured.holdings(read.folder, upload),
        "environment": environment,
        "problems": read.problems,
    }


def _safe_panels(read: _Reader, history: History | None, incident: Incident) -> list[Panel]:
    return read.attempt("charts", lambda: history_panels(history, incident.step) if history else []) or []


def _history(folder: Path, rank: int) -> History | None:
    path = folder / "history.parquet"
    if not path.is_file():
        return None
    table = pq.read_table(path)
    # A process that was attached before its group existed did not know its rank: its steps say 0.
    return read_history(table, rank) or read_history(table, 0)


def _lines(source: Source | None) -> list[Line]:
    if source is None:
        return []
    return [
        Line(number, text[:_MAX_LINE_CHARS], number == source.marked)
        for number, text in enumerate(source.lines, source.first_line)
    ]


def _text(path: Path) -> str:
    if not path.is_file():
        return ""
    with open(path, encoding="utf-8", errors="replace") as f:
        return f.read(_MAX_TRACEBACK_CHARS)


def _svg(drawing: Any) -> Markup | None:
    return Markup(drawing.inline()) if drawing else None  # noqa: S704 - drawn by us, every text escaped


def _asset(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


@cache
def _jinja() -> Jinja:
    jinja = Jinja(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters |= {
        "number": figures.number_text,
        "shape": figures.shape_text,
        "is_bad": figures.is_bad,
        "plural": figures.plural,
        "basename": lambda path: PurePath(path).name,
        "dirname": lambda path: f"{PurePath(path).parent}/",
        "svg": Markup,
        "op": lambda op: short_op(op or ""),
        "element": element_value,
        "of_sample": row_text,
        "moment": lambda text: text.replace("T", " ").split(".")[0].removesuffix("Z") + " UTC",
        "coded": _coded,
        "sentence": story.sentence,
    }
    return jinja


def _coded(text: str) -> Markup:
    """Text with `backticks` as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return Markup.escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(p) if i % 2 else Markup.escape(p) for i, p in enumerate(parts)
    )

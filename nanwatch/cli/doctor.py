"""`nanwatch doctor`: whether this environment can do what nanwatch needs."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from nanwatch.cli.exits import ENVIRONMENT, FINE
from nanwatch.cli.terminal import err, out, print_json, printable
from nanwatch.errors import NanwatchError, SettingsError
from nanwatch.settings import Settings, resolve

_REQUEST_TIMEOUT_S = "10"


@dataclass(frozen=True)
class Finding:
    """What one check found. Only `broken` makes the exit code 3."""

    check: str
    verdict: Literal["fine", "note", "broken"]
    says: str
    fix: str = ""


def doctor(as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Check versions, torch's private names, the runs' folder and the tracking server: exit code 3 when one fails."""
    with err.status("checking"):
        findings = list(_findings())
    if as_json:
        print_json([asdict(one) for one in findings])
    else:
        out.print(_table(findings))
    raise typer.Exit(ENVIRONMENT if any(one.verdict == "broken" for one in findings) else FINE)


def _findings() -> Iterator[Finding]:
    try:
        settings = resolve({})
    except SettingsError as e:
        yield Finding("settings", "broken", str(e), "correct the variable or the line in pyproject.toml")
        settings = Settings()
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("python", _python),
        ("torch", _torch),
        ("mlflow", _mlflow),
        ("runs", lambda: _runs(settings.dir)),
        ("tracking", lambda: _tracking(settings)),
    )
    for name, check in checks:
        try:
            yield check()
        except Exception as e:  # a check that falls over is a finding, and the others still run
            yield Finding(name, "broken", f"{type(e).__name__}: {e}")


def _python() -> Finding:
    version = platform.python_version()
    if version.startswith("3.11."):
        return Finding("python", "fine", version)
    return Finding("python", "note", f"{version}: only 3.11 was tried", "use Python 3.11")


def _torch() -> Finding:
    from nanwatch.probes.torch_names import TRIED, missing

    version = metadata.version("torch")
    gone = missing()
    if gone:
        return Finding("torch", "broken", f"{version} has no {', '.join(gone)}", f"install torch {' or '.join(TRIED)}")
    if not version.startswith(tuple(f"{tried}." for tried in TRIED)):
        return Finding("torch", "note", f"{version}: only {', '.join(TRIED)} was tried")
    return Finding("torch", "fine", f"{version}, all private names that nanwatch uses are there")


def _mlflow() -> Finding:
    version = metadata.version("mlflow")
    major, minor = map(int, version.split(".")[:2])
    if (major, minor) < (3, 17) or major > 3:
        return Finding("mlflow", "broken", version, "pip install 'mlflow>=3.17,<4'")
    return Finding("mlflow", "fine", version)


def _runs(folder: Path) -> Finding:
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.NamedTemporaryFile(dir=existing):
            free_mib = os.statvfs(existing).f_bavail * os.statvfs(existing).f_frsize // 2**20
    except OSError as e:
        return Finding(
            "runs", "broken", f"{existing} cannot be written: {e.strerror}", "set NANWATCH_DIR to a folder of yours"
        )
    return Finding("runs", "fine", f"{folder} can be written, {free_mib:,} MiB free")


def _tracking(settings: Settings) -> Finding:
    if not settings.mlflow:
        return Finding("tracking", "note", "switched off by NANWATCH_MLFLOW")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _REQUEST_TIMEOUT_S)
    from nanwatch.sinks.mlflow_connection import Connection, default_uri, without_credentials

    uri = settings.tracking_uri or default_uri()
    if uri.startswith("sqlite:///"):
        return _database(Path(uri.removeprefix("sqlite:///")).absolute())
    try:
        connection = Connection(uri)
        with connection.errors():
            connection.client.search_experiments(max_results=1)
    except NanwatchError as e:
        return Finding("tracking", "broken", str(e), "set MLFLOW_TRACKING_URI, or NANWATCH_MLFLOW=0 to do without")
    return Finding("tracking", "fine", f"{without_credentials(uri)} answers")


def _database(path: Path) -> Finding:
    """Looked at and left alone: MLflow builds its tables into a database that is merely opened."""
    if not path.exists():
        where = next(parent for parent in path.parents if parent.exists())
        if not os.access(where, os.W_OK):
            return Finding("tracking", "broken", f"{where} cannot be written", "set MLFLOW_TRACKING_URI")
        return Finding("tracking", "fine", f"{path} will be made when the first run is logged")
    try:
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=1)
        try:
            runs = database.execute("SELECT COUNT(*) FROM runs").fetchone()[0]
        finally:
            database.close()
    except sqlite3.Error as e:
        return Finding("tracking", "broken", f"{path}: {e}", f"mlflow db upgrade sqlite:///{path}, or move it away")
    return Finding("tracking", "fine", f"{path} holds {runs} runs")


def _table(findings: list[Finding]) -> Table:
    table = Table.grid(padding=(0, 2))
    style = {"fine": "green", "note": "yellow", "broken": "bold red"}
    for one in findings:
        table.add_row(Text(one.check), Text(one.verdict, style=style[one.verdict]), Text(printable(one.says)))
        if one.fix:
            table.add_row("", "", Text(f"→ {printable(one.fix)}", style="cyan"))
    return table

"""`nanwatch pull`: the post-mortem of a run, from MLflow to a folder, verified."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from nanwatch.bundle.manifest import verify
from nanwatch.bundle.members import MANIFEST, is_safe_id
from nanwatch.cli.exits import ENVIRONMENT, FINDINGS, FINE
from nanwatch.cli.terminal import err, fail, out, print_json, printable
from nanwatch.errors import SinkError

if TYPE_CHECKING:
    from nanwatch.sinks.mlflow_connection import Connection

INCIDENTS = "nanwatch/incidents"


@dataclass(frozen=True)
class Pulled:
    """What became of one bundle."""

    id: str
    state: Literal["pulled", "was here", "broken", "unfinished"]
    folder: str | None
    problems: tuple[str, ...] = ()


def pull(
    run_id: Annotated[str, typer.Argument(help="The MLflow run.")],
    tracking_uri: Annotated[
        str | None, typer.Option(help="Where the run is. Default: MLFLOW_TRACKING_URI, else MLflow's own default.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Folder to write into. Default: ./nanwatch-pulled/RUN_ID.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Download a run's post-mortem from MLflow and verify every file of it against its manifest.

    Exit code 1 when a bundle is broken or its upload was not finished, 3 when MLflow cannot give it.
    """
    if not is_safe_id(run_id):
        fail(f"{run_id!r} is no MLflow run id; the run's page shows it", ENVIRONMENT)
    folder = to or Path("nanwatch-pulled") / run_id
    try:
        with err.status("asking MLflow"):
            from nanwatch.sinks.mlflow_connection import Connection, default_uri

            connection = Connection(tracking_uri or default_uri())
            ids = _incident_ids(connection, run_id)
        os.makedirs(folder / "incidents", mode=0o700, exist_ok=True)
        pulled = [_pull_one(connection, run_id, name, folder / "incidents") for name in ids]
    except SinkError as e:
        fail(str(e), ENVIRONMENT)
    except OSError as e:
        fail(f"{folder} cannot be written: {e}", ENVIRONMENT)
    if as_json:
        print_json([asdict(one) for one in pulled])
    else:
        _say(pulled, run_id)
    raise typer.Exit(FINDINGS if any(one.problems for one in pulled) else FINE)


def _incident_ids(connection: Connection, run_id: str) -> list[str]:
    with connection.errors():
        connection.client.get_run(run_id)
        listed = connection.client.list_artifacts(run_id, INCIDENTS)
    return sorted(name for one in listed if one.is_dir and is_safe_id(name := one.path.rsplit("/", 1)[-1]))


def _pull_one(connection: Connection, run_id: str, name: str, incidents: Path) -> Pulled:
    final = incidents / name
    if final.exists():
        problems = verify(final)
        return Pulled(name, "broken" if problems else "was here", str(final), tuple(problems))
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=incidents) as scratch:
        with err.status(f"downloading {printable(name)}"), connection.errors():
            got = Path(connection.client.download_artifacts(run_id, f"{INCIDENTS}/{name}", scratch))
        if not (got / MANIFEST).exists():
            return Pulled(name, "unfinished", None, ("it has no manifest: its upload was not finished",))
        problems = verify(got)
        if problems:
            return Pulled(name, "broken", None, tuple(problems))
        for path in (got, *got.rglob("*")):
            path.chmod(0o700 if path.is_dir() else 0o600)
        shutil.move(got, final)
    return Pulled(name, "pulled", str(final))


def _say(pulled: list[Pulled], run_id: str) -> None:
    if not pulled:
        out.print(f"run {run_id} has no incidents")
    for one in pulled:
        style = "red" if one.problems else "green"
        out.print(Text.assemble((f"{one.state:<10} ", style), one.folder or one.id))
        for problem in one.problems:
            out.print(Text(f"           {printable(problem)}", style="yellow"))
        if one.folder and not one.problems:
            out.print(Text(f"           nanwatch show {one.folder}", style="dim"))

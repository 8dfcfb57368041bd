"""`nanwatch sync`: ship what a run still holds, when its agent is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import psutil
import typer
from rich.text import Text

from nanwatch.cli.exits import ENVIRONMENT, FINDINGS, FINE, USAGE
from nanwatch.cli.run_folder import RunFolder
from nanwatch.cli.terminal import err, fail, out, print_json, printable


def sync(
    folder: Annotated[Path, typer.Argument(help="A run's folder, or the folder of all runs.")] = Path("nanwatch_runs"),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Finish bundles, ship to MLflow and deliver webhooks that a run's agent did not get to.

    Where to, and the webhook's secret, come from run.json and from the environment, as for the training itself. A run
    whose agent is alive is left to it. Exit code 1 when something is still left, 3 when an agent cannot work.
    """
    runs = [RunFolder(path) for path in _run_folders(folder)]
    if not runs:
        fail(f"no run in {folder}: give a run's folder, or the folder that holds the runs", USAGE)
    results = []
    for run in runs:
        with err.status(f"syncing {run.path.name}"):
            code = _serve(run)
        # Read anew: the agent has written since.
        results.append({"run": str(run.path), "exit_code": code, "left": _left(RunFolder(run.path))})
    if as_json:
        print_json({"runs": results})
    else:
        for result in results:
            out.print(Text(printable(_line(result))))
    if any(r["exit_code"] for r in results):
        raise typer.Exit(ENVIRONMENT)
    raise typer.Exit(FINDINGS if any(r["left"] for r in results) else FINE)


def _run_folders(folder: Path) -> list[Path]:
    if (folder / "run.json").is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob("*/run.json"))


def _serve(run: RunFolder) -> int:
    """Run an agent on the folder until it has seen everything through; its exit code."""
    pid = int(run.run.get("pid", 0))
    command = [sys.executable, "-P", "-m", "nanwatch.agent", str(run.path.resolve())]
    return subprocess.run(
        [*command, "--pid", str(pid), "--start-time", repr(_start_time_s(run, pid))], check=False
    ).returncode


def _start_time_s(run: RunFolder, pid: int) -> float:
    """When the trainer started, if it is still there; 0 for a process that is gone, whose id another may have now."""
    try:
        started = float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0
    return started if started <= float(run.run.get("time_unix_s", 0.0)) else 0.0


def _left(run: RunFolder) -> dict[str, int]:
    """What is still waiting, by kind."""
    sinks = run.ledger.get("sinks", {})
    left = {name: int(state.get("queued", 0)) for name, state in sinks.items() if isinstance(state, dict)}
    left["webhooks"] = len(list((run.path / "outbox" / "pending").glob("*.json")))
    return {name: n for name, n in left.items() if n}


def _line(result: dict[str, object]) -> str:
    left = result["left"]
    if result["exit_code"]:
        return f"{result['run']}: another agent works on it, or it cannot work; agent.log in there says which"
    if left:
        return f"{result['run']}: still waiting: {left}; agent.log in there says why"
    return f"{result['run']}: everything is shipped"

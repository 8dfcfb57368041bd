"""`nanwatch demo`: a small training that goes bad, and everything that nanwatch makes of it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from nanwatch.cli.exits import ENVIRONMENT, FINDINGS, FINE, USAGE
from nanwatch.cli.story import story
from nanwatch.cli.terminal import err, facts, fail, out, print_json, printable
from nanwatch.errors import SetupError, SinkError

if TYPE_CHECKING:
    from nanwatch.demo.run import DemoResult

UI_PORT = 5000


def demo(
    ui: Annotated[bool, typer.Option("--ui", help="Open MLflow's page of it afterwards, until Ctrl-C.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where to work; empty, or one of an earlier demo.")] = Path(
        "nanwatch-demo"
    ),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Train a small network that really goes bad, and check what nanwatch made of it: MLflow, bundle, webhook.

    Exit code 1 when something of it is missing.
    """
    from nanwatch.demo.run import run_demo
    from nanwatch.demo.workspace import prepare

    port = _free_port() if ui else None
    ui_url = None if port is None else f"http://127.0.0.1:{port}"
    try:
        workspace = prepare(folder)
        with err.status("training") as status:

            def say(line: str) -> None:
                err.print(Text(printable(line), style="dim"))
                status.update("working")

            result = run_demo(workspace, ui_url, say)
    except SetupError as e:
        fail(str(e), USAGE)
    except SinkError as e:
        fail(str(e), ENVIRONMENT)
    except KeyboardInterrupt:
        fail("stopped", FINDINGS)
    if as_json:
        incident = None if result.incident is None else result.incident.to_json()
        facts_ = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(result).items()}
        print_json({**facts_, "incident": incident})
    else:
        _tell(result, ui_url)
    if port is not None and result.stored is not None:
        _serve(result.store_uri, port)
    raise typer.Exit(FINDINGS if result.problems else FINE)


def _tell(result: DemoResult, ui_url: str | None) -> None:
    out.print()
    if result.incident is not None and result.bundle is not None:
        out.print(story(result.incident, result.bundle))
    out.print(facts(_rows(result, ui_url)))
    for problem in result.problems:
        out.print(Text(printable(f"missing: {problem}"), style="bold red"))
    if not result.problems:
        out.print(Text("all there: one incident, explained, in MLflow, on disk, and delivered once", style="green"))


def _rows(result: DemoResult, ui_url: str | None) -> Iterator[tuple[str, str, str]]:
    for delivery in result.deliveries:
        verdict = "signature verified" if delivery.signed else "signature WRONG"
        yield "webhook", f"{delivery.type}, {verdict}: {delivery.body.get('data', {}).get('title', '')}", ""
    stored = result.stored
    if stored is not None:
        amount = f"{stored.keys} charts, {stored.points} points, {stored.artifacts} files"
        yield "MLflow", f"run {stored.run_id}, {stored.status}: {amount}", ""
        command = f"{_mlflow_command()} ui --backend-store-uri {result.store_uri}"
        yield "", command if ui_url is None else _page(result, ui_url), "cyan"
    yield "time", f"{result.seconds:.0f} s", ""


def _page(result: DemoResult, ui_url: str) -> str:
    """The run's page; a fresh browser would otherwise open MLflow in its mode for language models."""
    run = result.stored
    if run is None:
        return ui_url
    return f"{ui_url}/#/experiments/{run.experiment_id}/runs/{run.run_id}?workflowType=machine_learning"


def _mlflow_command() -> str:
    """How the mlflow beside this nanwatch is called from here."""
    beside = Path(sys.executable).with_name("mlflow")
    if not beside.exists() or shutil.which("mlflow") == str(beside):
        return "mlflow"
    return str(beside.relative_to(Path.cwd())) if beside.is_relative_to(Path.cwd()) else str(beside)


def _serve(store_uri: str, port: int) -> None:
    err.print(f"MLflow starts on port {port}, which takes a while; Ctrl-C ends it")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store_uri]
    server = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level error"]
    try:
        # Without its job runner the server needs two processes instead of fifteen.
        subprocess.run(
            [*command, *server], env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, check=False
        )
    except KeyboardInterrupt:
        err.print("MLflow stopped")


def _free_port() -> int:
    """UI_PORT, or any other when that one is taken."""
    for port in (UI_PORT, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SetupError("no free port on 127.0.0.1")

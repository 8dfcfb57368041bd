"""`nanwatch show`: what a run or a bundle has to say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from nanwatch.bundle.reader import Bundle
from nanwatch.cli.exits import ENVIRONMENT, FINDINGS, FINE, USAGE
from nanwatch.cli.run_folder import RunFolder, UnreadableBundle, is_run, latest_run
from nanwatch.cli.story import place, story
from nanwatch.cli.terminal import facts, fail, out, print_json, printable
from nanwatch.errors import BundleError, SettingsError
from nanwatch.report.offenders import rows_text
from nanwatch.report.story import headline, origin_sentence
from nanwatch.settings import resolve


def show(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|BUNDLE", help="A run's name or folder, or a bundle's folder. Default: the latest run."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show a run (status, incidents, alerts, ledger) or tell a bundle's story. Exit code 1 when there are findings."""
    try:
        runs = resolve({}).dir
    except SettingsError as e:
        fail(str(e), USAGE)
    found = _find(target, runs)
    if isinstance(found, RunFolder):
        _show_run(found, as_json=as_json)
    else:
        _show_bundle(found, as_json=as_json)


def _find(target: str | None, runs: Path) -> RunFolder | Path:
    """The run, or the folder of the bundle, that `target` means."""
    if target is None:
        latest = latest_run(runs)
        if latest is None:
            fail(f"no run in {runs.resolve()}; name a run's folder, or set NANWATCH_DIR", USAGE)
        return latest
    for path in (Path(target), runs / target):
        if is_run(path):
            return RunFolder(path)
        if (path / "incident.json").is_file():
            return path
    latest = latest_run(Path(target))
    if latest is None:
        fail(f"{target} is neither a run nor a bundle, also not in {runs.resolve()}", USAGE)
    return latest


def _show_bundle(folder: Path, *, as_json: bool) -> None:
    try:
        bundle = Bundle.open(folder)
        incident = bundle.incident
    except BundleError as e:
        fail(str(e), ENVIRONMENT)
    if as_json:
        print_json(incident.to_json())
    else:
        out.print(story(incident, folder))
        if not bundle.is_complete:
            out.print(Text("unfinished: only what the trainer wrote is here", style="yellow"))
    raise typer.Exit(FINDINGS)


def _show_run(run: RunFolder, *, as_json: bool) -> None:
    alerts = [alert for alert in run.alerts if alert.get("state") != "pending"]
    if as_json:
        print_json(_facts(run, alerts))
    else:
        _print_run(run, alerts)
    raise typer.Exit(FINDINGS if run.incidents or alerts else FINE)


def _status(run: RunFolder, alerts: list[dict[str, Any]]) -> str:
    if run.incidents:
        return "incident"
    return "alerting" if any(alert.get("state") in {"firing", "recovering"} for alert in alerts) else "ok"


def _facts(run: RunFolder, alerts: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "folder": str(run.path.resolve()),
        "status": _status(run, alerts),
        "run": run.run,
        "incidents": [
            {"folder": str(one.folder), "error": one.reason}
            if isinstance(one, UnreadableBundle)
            else {"folder": str(one.folder), "complete": one.is_complete, **one.incident.to_json()}
            for one in run.incidents
        ],
        "alerts": alerts,
        "ledger": run.ledger,
    }


def _print_run(run: RunFolder, alerts: list[dict[str, Any]]) -> None:
    status = _status(run, alerts)
    style = {"ok": "green", "alerting": "yellow"}.get(status, "red")
    out.print(Text.assemble(("run ", "dim"), (run.path.resolve().name, "bold"), "  ", (status, f"bold {style}")))
    out.print(Text(f"    {run.path.resolve()}", style="dim"))
    for model in run.run.get("models", []):
        out.print(f"    {printable(model.get('type'))}, {model.get('parameters')} parameters", markup=False)
    _print_incidents(run)
    out.print(facts([*_alert_rows(alerts), *_ledger_rows(run.ledger)]))


def _print_incidents(run: RunFolder) -> None:
    for one in run.incidents:
        if isinstance(one, UnreadableBundle):
            out.print(Text(printable(f"incident {one.folder.name}: {one.reason}"), style="yellow"))
            continue
        incident = one.incident
        out.print(Text(printable(headline(incident)), style="red"))
        if incident.origin is not None:
            rows = rows_text(incident)
            out.print(f"    {printable(place(incident.origin))}{f', {printable(rows)}' if rows else ''}", markup=False)
            out.print(f"    {printable(origin_sentence(incident))}", markup=False)
        out.print(f"    {printable(incident.cause.label)} ({incident.cause.confidence})", markup=False)
        out.print(Text(f"    nanwatch show {one.folder}", style="dim"))


def _alert_rows(alerts: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for alert in alerts:
        style = "red" if alert.get("severity") == "critical" else "yellow"
        head = f"{alert.get('rule')} {alert.get('state')} at step {alert.get('step')} ({alert.get('severity')})"
        yield "alert", head, "" if alert.get("state") == "resolved" else style
        yield "", str(alert.get("summary", "")), ""


def _ledger_rows(ledger: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    told = {name: value for name, value in ledger.items() if name not in {"schema", "time"}}
    for i, (name, value) in enumerate(sorted(_flat(told))):
        yield "" if i else "ledger", f"{name} {value}", ""


def _flat(counts: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested counts as dotted names, without the zeros."""
    rows: list[tuple[str, str]] = []
    for name, value in counts.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}.")
        elif value not in (0, None, "", []):
            rows.append((f"{prefix}{name}", str(value)))
    return rows

"""An incident as a few lines in the terminal: where it began, why, what to do, and how sure we are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from nanwatch.cli.terminal import facts, printable
from nanwatch.records import Incident, Origin
from nanwatch.report.chain import Chain, fold
from nanwatch.report.offenders import rows_text, tensor_text
from nanwatch.report.story import headline, origin_sentence


def story(incident: Incident, bundle: Path) -> Text:
    """The incident for a person at a terminal."""
    return Text("\n").join((Text(printable(headline(incident)), style="bold red"), facts(_rows(incident, bundle))))


def place(origin: Origin) -> str:
    """`file:line`, or what is known instead."""
    if origin.file is None:
        return origin.param or "outside Python"
    return f"{origin.file}:{origin.line}"


def _rows(incident: Incident, bundle: Path) -> Iterator[tuple[str, str, str]]:
    """Name, text and style of each line."""
    if incident.origin is not None:
        yield from _origin_rows(incident.origin, origin_sentence(incident))
        if rows := rows_text(incident):
            yield "batch", rows, ""
    elif incident.kind == "nonfinite":
        yield "origin", "was not found", "yellow"
    cause = incident.cause
    yield "cause", f"{cause.label} ({cause.confidence})", "bold"
    for why in cause.why:
        yield "", why, ""
    for i, fix in enumerate(cause.fix):
        yield "fix" if i == 0 else "", fix, "green"
    if incident.path:
        yield "chain", " → ".join(_chain(fold(incident.path))), ""
    replay = incident.replay
    how = f", {'the same bits' if replay.bitwise else 'not the same bits'}" if replay.verdict == "reproduced" else ""
    yield "replay", f"{replay.verdict.replace('_', ' ')}{how}, {replay.seconds:.1f} s", ""
    if replay.error:
        yield "", replay.error, "yellow"
    for experiment in replay.experiments:
        outcome = experiment.outcome
        yield "", f"{experiment.name}: {outcome}; {experiment.says}", ""
    for limit in incident.scope:
        yield "limits", limit, "yellow"
    yield "bundle", str(bundle), ""
    if (bundle / "report.html").is_file():
        yield "report", str(bundle / "report.html"), ""


def _origin_rows(origin: Origin, sentence: str) -> Iterator[tuple[str, str, str]]:
    yield "origin", place(origin), "bold"
    if origin.code:
        yield "", origin.code.strip(), "cyan"
    yield "", sentence, ""
    if origin.module is not None:
        kind = f" ({origin.module_type})" if origin.module_type else ""
        yield "module", f"{origin.module or 'the model itself'}{kind}", ""
    for tensor in origin.inputs:
        yield "input", tensor_text(tensor), ""
    if origin.output is not None:
        yield "output", tensor_text(origin.output), ""


def _chain(chain: Chain) -> list[str]:
    middle = [chain.middle] if chain.middle else []
    return [*(link.ops for link in chain.head), *middle, *(link.ops for link in chain.tail)]

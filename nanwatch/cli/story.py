"""An incident as a few lines in the terminal: where it began, why, what to do, and how sure we are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.text import Text

from nanwatch.cli.terminal import facts, printable
from nanwatch.records import Incident, Origin, PathNode

CHAIN_LENGTH = 7
_PHASES = {
    "data": "came in with the batch",
    "params": "was in a parameter or buffer already",
    "forward": "was made in the forward pass",
    "loss": "was made between the model and backward",
    "backward": "was made in the backward pass",
    "optimizer": "was made by the optimizer's step",
}


def story(incident: Incident, bundle: Path) -> Text:
    """The incident for a person at a terminal."""
    return Text("\n").join((Text(printable(headline(incident)), style="bold red"), facts(_rows(incident, bundle))))


def headline(incident: Incident) -> str:
    """What happened, in one sentence."""
    if incident.kind == "capture":
        return f"captured at step {incident.step}: {incident.reason or 'on request'}"
    value = {"nan": "NaN", "inf": "infinity"}.get(incident.seen.value, incident.seen.value)
    seen = f"{value} in the {incident.seen.where} at step {incident.step}"
    return f"{seen}: it {_PHASES[incident.origin.phase]}" if incident.origin else f"{seen}: its origin was not found"


def place(origin: Origin) -> str:
    """`file:line`, or what is known instead."""
    if origin.file is None:
        return origin.param or "outside Python"
    return f"{origin.file}:{origin.line}"


def _rows(incident: Incident, bundle: Path) -> Iterator[tuple[str, str, str]]:
    """Name, text and style of each line."""
    if incident.origin is not None:
        yield from _origin_rows(incident.origin)
    cause = incident.cause
    yield "cause", f"{cause.label} ({cause.confidence})", "bold"
    for why in cause.why:
        yield "", why, ""
    for i, fix in enumerate(cause.fix):
        yield "fix" if i == 0 else "", fix, "green"
    if incident.path:
        yield "chain", " → ".join(_chain(incident.path)), ""
    replay = incident.replay
    how = f", {'the same bits' if replay.bitwise else 'not the same bits'}" if replay.verdict == "reproduced" else ""
    yield "replay", f"{replay.verdict.replace('_', ' ')}{how}, {replay.seconds:.1f} s", ""
    if replay.error:
        yield "", replay.error, "yellow"
    for experiment in replay.experiments:
        yield "", f"{experiment.name}: {'finite' if experiment.finite else 'still bad'}: {experiment.says}", ""
    for limit in incident.scope:
        yield "limits", limit, "yellow"
    yield "bundle", str(bundle), ""
    if (bundle / "report.html").is_file():
        yield "report", str(bundle / "report.html"), ""


def _origin_rows(origin: Origin) -> Iterator[tuple[str, str, str]]:
    yield "origin", place(origin), "bold"
    if origin.code:
        yield "", origin.code.strip(), "cyan"
    if origin.op:
        yield "operation", f"{origin.op} gave {origin.value}", ""
    if origin.module is not None:
        kind = f" ({origin.module_type})" if origin.module_type else ""
        yield "module", f"{origin.module or 'the model itself'}{kind}", ""
    if origin.param:
        yield ("input" if origin.phase == "data" else "parameter"), origin.param, ""
    for tensor in origin.inputs:
        spread = "" if tensor.min is None else f", {tensor.min:.4g} to {tensor.max:.4g}"
        bad = f", {tensor.nonfinite} not finite" if tensor.nonfinite else ""
        yield "input", f"{tensor.name}: {tensor.dtype} {list(tensor.shape)}{spread}{bad}", ""
    if origin.batch_rows:
        yield "batch rows", ", ".join(map(str, origin.batch_rows)), ""


def _chain(path: tuple[PathNode, ...]) -> list[str]:
    ops = [node.op.removeprefix("aten::") for node in path]
    if len(ops) <= CHAIN_LENGTH:
        return ops
    return [*ops[: CHAIN_LENGTH - 2], f"({len(ops) - CHAIN_LENGTH + 1} more)", ops[-1]]

"""What a person sees in the terminal: one line at attach, at most twelve an incident, otherwise silence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from nanwatch.records import Incident, Origin, Policy
from nanwatch.report.chain import short_op
from nanwatch.report.offenders import offender, rows_text, tensor_text
from nanwatch.report.story import headline, value_name

_THEN = {
    "record": 'training goes on (on_nonfinite="record")',
    "skip": 'the poisoned update is dropped, training goes on (on_nonfinite="skip")',
    "stop": 'training stops here (on_nonfinite="stop")',
}

_WIDTH = 200


def say(text: str) -> None:
    """Write lines to stderr, above a progress bar if one is running."""
    bars = sys.modules.get("tqdm")
    write: Callable[..., None] | None = getattr(getattr(bars, "tqdm", None), "write", None)
    try:
        if write is not None and sys.stderr.isatty():
            write(text, file=sys.stderr)
        else:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass  # a closed stderr is no reason to disturb the training


def attach_line(models: list[str], where: str, mlflow: str, policy: Policy, guard: str = "") -> str:
    told = f", {guard}" if guard else ""
    return f"nanwatch watches {', '.join(models)} -> {where}, MLflow {mlflow}; a non-finite step: {policy}{told}"


def elsewhere_line(step_total: int, folder: str) -> str:
    """On rank 0, where the non-finite value came from another rank."""
    return f"nanwatch: step {step_total}: a non-finite value came from another rank; its bundle is in {_short(folder)}"


def incident_lines(incident: Incident, folder: str, policy: Policy) -> str:
    """The story in at most twelve lines."""
    o = incident.origin
    story = headline(incident)
    of_run = f" ({incident.step_total:,} of the run)" if incident.step_total != incident.step else ""
    lines = [f"nanwatch: {story[:1].lower()}{story[1:]}{of_run}"]
    if o is not None:
        lines.append(f"  origin  {_origin(o)}")
        if o.code:
            lines.append(_cut(f"          {o.code}", 110))
        at_fault = offender(o.inputs)
        if at_fault is not None:
            lines.append(_cut(f"  input   {tensor_text(at_fault)}"))
        if rows := rows_text(incident):
            lines.append(_cut(f"  batch   {rows}"))
    cause = incident.cause
    lines.append(_cut(f"  cause   {cause.label} ({cause.confidence}){': ' + cause.why[0] if cause.why else ''}"))
    if cause.fix:
        lines.append(_cut(f"  fix     {cause.fix[0]}"))
    exact = ", bit for bit" if incident.replay.bitwise else ""
    lines.append(f"  replay  {incident.replay.verdict.replace('_', ' ')}{exact}, {incident.replay.seconds:.2f} s"
                 + (f" ({incident.replay.error})"[:120] if incident.replay.error else ""))  # fmt: skip
    cured = next((e for e in incident.replay.experiments if e.finite), None)
    if cured is not None:
        lines.append(_cut(f"  tried   {cured.name}: finite; {cured.says}"))
    lines.append(f"  bundle  {_short(folder)}")
    if incident.seen.backward and incident.seen.where != "output":  # else the program has decided how it goes on
        lines.append(f"  {_THEN[policy]}")
    return "\n".join(lines)


def _cut(line: str, width: int = _WIDTH) -> str:
    return line if len(line) <= width else f"{line[: width - 4]} ..."


def _origin(o: Origin) -> str:
    """`forward: softmax in blocks.0.attention (Attention) made NaN at train.py:25`."""
    op, value = "an operation" if o.op is None else short_op(o.op), value_name(o.value)
    kind = f" ({o.module_type})" if o.module_type else ""
    module = "" if o.module is None else f" in {o.module or 'the model'}{kind}"
    what = {
        "data": f"{o.param or 'the batch'} came with {value}",
        "params": f"{o.param} was {value} already",
        "optimizer": f"the optimizer's step: {op} made {o.param} {value}",
    }.get(o.phase, f"{o.phase}: {op}{module} made {value}")
    if o.file is None:
        return what
    return f"{what}{'; first read' if o.phase in {'data', 'params'} else ''} at {_short(o.file)}:{o.line}"


def _short(path: str) -> str:
    """The path relative to the working directory where that is shorter."""
    relative = os.path.relpath(path)
    return path if relative.startswith("..") or len(relative) >= len(path) else relative

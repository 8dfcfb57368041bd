"""What a person sees in the terminal: one line at attach, at most twelve an incident, otherwise silence."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from nanwatch.records import Incident, Policy

_THEN = {
    "record": 'training goes on (on_nonfinite="record")',
    "skip": 'the poisoned update is dropped, training goes on (on_nonfinite="skip")',
    "stop": 'training stops here (on_nonfinite="stop")',
}


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


def attach_line(models: list[str], where: str, mlflow: str, policy: Policy) -> str:
    return f"nanwatch watches {', '.join(models)} -> {where}, MLflow {mlflow}; a non-finite step: {policy}"


def elsewhere_line(step_total: int, folder: str) -> str:
    """On rank 0, where the non-finite value came from another rank."""
    return f"nanwatch: step {step_total}: a non-finite value came from another rank; its bundle is in {_short(folder)}"


def incident_lines(incident: Incident, folder: str, policy: Policy) -> str:
    """The story in at most twelve lines."""
    o = incident.origin
    seen = incident.seen
    shown = {
        "loss": "the loss",
        "grad": "a gradient",
        "parameter": "a parameter",
        "output": "an output",
        "none": "a value",
    }
    lines = [f"nanwatch: step {incident.step_total}: {shown[seen.where]} became {seen.value}"]
    if o is not None:
        module = "" if o.module is None else f" in {o.module or 'the model'} ({o.module_type})"
        what = {
            "data": f"{o.param or 'the batch'} came with {o.value}; first read",
            "params": f"{o.param} was {o.value} already; first read",
        }.get(o.phase, f"{o.phase}: {o.op}{module} made {o.value}")
        lines.append(f"  origin  {what} at {_short(o.file)}:{o.line}")
        if o.code:
            lines.append(f"          {o.code[:100]}")
        if o.batch_rows:
            lines.append(f"  rows    {', '.join(map(str, o.batch_rows[:10]))} of the batch")
    cause = incident.cause
    lines.append(f"  cause   {cause.label} ({cause.confidence}){': ' + cause.why[0] if cause.why else ''}"[:200])
    if cause.fix:
        lines.append(f"  fix     {cause.fix[0]}"[:200])
    exact = ", bit for bit" if incident.replay.bitwise else ""
    lines.append(f"  replay  {incident.replay.verdict.replace('_', ' ')}{exact}, {incident.replay.seconds:.2f} s"
                 + (f" ({incident.replay.error})"[:120] if incident.replay.error else ""))  # fmt: skip
    lines.append(f"  bundle  {_short(folder)}")
    lines.append(f"  {_THEN[policy]}")
    return "\n".join(lines)


def _short(path: str | None) -> str:
    """The path relative to the working directory where that is shorter."""
    if path is None:
        return "?"
    relative = os.path.relpath(path)
    return path if relative.startswith("..") or len(relative) >= len(path) else relative

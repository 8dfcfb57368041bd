"""`traceback.txt`: where the value was made, and its way to the loss, as a Python traceback reads."""

from __future__ import annotations

import linecache

from nanwatch.probes.flight_recorder import Stack
from nanwatch.records import Frame, Incident, Origin


def frames(stack: Stack) -> tuple[Frame, ...]:
    """Frames for `incident.json`, innermost first."""
    return tuple(Frame(code.co_filename, line, code.co_name) for code, line in stack)


def source_line(frame: Frame | None) -> str | None:
    """The line of code, or None where the source is not to be had."""
    if frame is None:
        return None
    return linecache.getline(frame.file, frame.line).strip() or None


def write_traceback(incident: Incident) -> str:
    """The anomaly traceback in words and frames; outermost call first, as Python prints it."""
    origin = incident.origin
    if origin is None:
        return f"No origin was found: {incident.replay.error or 'see incident.json'}\n"
    lines = [f"Non-finite value ({origin.value}) at step {incident.step}, phase {origin.phase}.", ""]
    lines += ["Traceback of the forward operation (most recent call last):"]
    for frame in reversed(origin.stack):
        lines.append(f'  File "{frame.file}", line {frame.line}, in {frame.function}')
        code = source_line(frame)
        if code:
            lines.append(f"    {code}")
    lines.append(headline(origin))
    lines += [
        f"    {t.name}: {list(t.shape)} {t.dtype}, {_span(t.min, t.max)}, {t.nonfinite} non-finite"
        for t in origin.inputs
    ]
    if incident.path:
        lines += [
            "",
            "The value's way to the loss:" if incident.seen.where == "loss" else "The value's way to what was seen:",
        ]
        lines += [f"  {n.op:32s} {n.value:8s} {_module(n.module)}  {_place(n.file, n.line)}" for n in incident.path]
    return "\n".join(lines) + "\n"


def headline(origin: Origin) -> str:
    """One line: the operation, the module, what it made."""
    intended = any(t.nonfinite for t in origin.inputs)
    inputs = "infinities that the program wrote on purpose" if intended else "finite inputs"
    what = {
        "data": f"{origin.param or 'the batch'} came with {origin.value}",
        "params": f"{origin.param} was {origin.value} before the step",
        "optimizer": f"{origin.op} made {origin.param} {origin.value}",
        "backward": f"the gradient of {origin.op} is {origin.value}",
    }.get(origin.phase, f"{origin.op} made {origin.value} from {inputs}")
    where = "" if origin.module is None else f" in {_module(origin.module)} ({origin.module_type})"
    return f"NonFinite: {what}{where}"


def _span(low: float | None, high: float | None) -> str:
    return "no finite values" if low is None or high is None else f"{low:.6g} ... {high:.6g}"


def _module(name: str | None) -> str:
    return "(outside of the model)" if name is None else name or "(the model itself)"


def _place(file: str | None, line: int | None) -> str:
    return f"{file}:{line}" if file else ""

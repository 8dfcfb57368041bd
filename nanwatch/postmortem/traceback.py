"""`traceback.txt`: where the value was made, and its way to the loss, as a Python traceback reads."""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator

from nanwatch.postmortem.source import source_around
from nanwatch.probes.flight_recorder import Stack
from nanwatch.records import Frame, Incident, Origin
from nanwatch.report.chain import Link, fold, module_name, short_op
from nanwatch.report.offenders import rows_text, tensor_text
from nanwatch.report.story import headline, value_name, verdict_text

_NUMBER_WIDTH = 6


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
        why = incident.replay.error or "see incident.json"
        return f"{headline(incident)}.\n\nNo origin was found: {why}\n"
    blocks = [
        [f"{headline(incident)}; origin in phase {origin.phase}. {verdict_text(incident)}."],
        list(_stack(origin)),
        list(_source(origin)),
        _titled("What went in:", map(tensor_text, origin.inputs)),
        _titled("What came out:", [tensor_text(origin.output)] if origin.output is not None else []),
        _titled("Of the batch:", filter(None, [rows_text(incident)])),
        _titled(_way_title(incident), _way(incident)),
        _titled("The same step with one thing changed:", _experiments(incident)),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def what_happened(origin: Origin) -> str:
    """One line: the operation, the module, what it made."""
    value, op = value_name(origin.value), "an operation" if origin.op is None else short_op(origin.op)
    kind = f" ({origin.module_type})" if origin.module_type else ""
    where = "" if origin.module is None else f" in {module_name(origin.module)}{kind}"
    what = {
        "data": f"{origin.param or 'the batch'} came with {value}{where and f', first read{where}'}",
        "params": f"{origin.param} was {value} before the step",
        "optimizer": f"{op} made {origin.param} {value}",
        "backward": f"the gradient of {op} is {value}{where}",
    }.get(origin.phase, f"{op} made {value}{_from(origin)}{where}")
    return f"NonFinite: {what}"


def _from(origin: Origin) -> str:
    if not any(t.nonfinite for t in origin.inputs):
        return " from finite inputs"
    return " from infinities that the program wrote on purpose" if origin.value == "nan" else ""


def _stack(origin: Origin) -> Iterator[str]:
    if origin.stack:
        first_use = origin.phase in {"data", "params"}
        yield f"Traceback of {_step_of(origin, first_use=first_use)} (most recent call last):"
    for frame in reversed(origin.stack):
        yield f'  File "{frame.file}", line {frame.line}, in {frame.function}'
        code = source_line(frame)
        if code:
            yield f"    {code}"
    yield what_happened(origin)


def _step_of(origin: Origin, *, first_use: bool) -> str:
    if first_use:
        return "the first use"
    return "the optimizer's step" if origin.phase == "optimizer" else "the forward operation"


def _source(origin: Origin) -> Iterator[str]:
    around = source_around(origin.file, origin.line)
    if around is None:
        return
    yield f"{origin.file}:"
    for number, text in enumerate(around["lines"], around["first_line"]):
        mark = ">" if number == around["marked"] else " "
        yield f"{mark} {number:{_NUMBER_WIDTH}d}  {text}".rstrip()


def _way_title(incident: Incident) -> str:
    return "The value's way to the loss:" if incident.seen.where == "loss" else "The value's way to what was seen:"


def _way(incident: Incident) -> Iterator[str]:
    chain = fold(incident.path)
    yield from map(_link, chain.head)
    if chain.middle:
        yield f"... {chain.middle}"
    yield from map(_link, chain.tail)


def _link(link: Link) -> str:
    return f"{link.ops:32s} {value_name(link.value):8s}  {link.module}  {link.place}".rstrip()


def _experiments(incident: Incident) -> Iterator[str]:
    for one in incident.replay.experiments:
        yield f"{one.outcome:17s} {one.name}: {one.says}"


def _titled(title: str, lines: Iterable[str]) -> list[str]:
    """A block, or nothing where there are no lines."""
    shown = [f"  {line}" for line in lines]
    return [title, *shown] if shown else []

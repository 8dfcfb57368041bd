"""The incident in short, for chat, issue trackers and assistants: the facts and what to do, no values of the batch."""

from __future__ import annotations

from collections.abc import Iterator

from nanwatch.records import Incident, Origin
from nanwatch.report import story
from nanwatch.report.chain import Link, fold
from nanwatch.report.figures import number_text, shape_text
from nanwatch.report.offenders import element_text, rows_text

_STACK_LENGTH = 8


def markdown(incident: Incident) -> str:
    """`incident.md`."""
    return "\n".join(_lines(incident)).rstrip() + "\n"


def _lines(incident: Incident) -> Iterator[str]:
    yield f"# {_plain(story.headline(incident))}"
    yield ""
    yield _plain(story.lead(incident))
    yield ""
    yield f"- **verdict:** {story.verdict_text(incident)}"
    cause = incident.cause
    yield f"- **cause:** {story.cause_title(cause.label)} (`{_code(cause.label)}`, {cause.confidence})"
    shifted = f" (step {incident.step_total:,} of the run)" if incident.step_total != incident.step else ""
    rank = f"rank {incident.rank} of {incident.world_size}"
    yield f"- **step:** {incident.step:,}{shifted}, micro step {incident.micro_step}, {rank}"
    yield f"- **what was done:** {story.action_text(incident)}"
    yield f"- **time:** {_plain(incident.time)}"
    yield f"- **incident:** `{_code(incident.id)}`"
    yield ""
    if incident.origin is not None:
        yield from _origin(incident.origin, rows_text(incident))
    if incident.cause.why:
        yield from ("## Why", "", *(f"- {_plain(why)}" for why in incident.cause.why), "")
    if incident.cause.fix:
        yield from ("## What to do", "", *(f"{i}. {_plain(fix)}" for i, fix in enumerate(incident.cause.fix, 1)), "")
    if incident.replay.experiments:
        yield from ("## Experiments", "")
        for one in incident.replay.experiments:
            yield f"- {_plain(one.name)}: {one.outcome}; {_plain(one.says)}"
        yield ""
    if incident.path:
        yield from ("## From the origin to the loss", "")
        chain = fold(incident.path)
        yield from map(_link, chain.head)
        if chain.middle:
            yield f"1. {_plain(chain.middle)}"
        yield from map(_link, chain.tail)
        yield ""
    if incident.scope:
        yield from ("## What this cannot say", "", *(f"- {_plain(limit)}" for limit in incident.scope), "")
    yield "To run this step again: `python replay.py --model package.module:factory`, from where that can be imported."


def _link(link: Link) -> str:
    at = f" ({_code(link.place)})" if link.place else ""
    return f"1. `{_code(link.ops)}` in `{_code(link.module)}`{at}: {_plain(link.value)}"


def _origin(origin: Origin, rows: str) -> Iterator[str]:
    yield from ("## Origin", "")
    if origin.file:
        yield f"`{_code(origin.file)}:{origin.line}` in `{_code(origin.function or '?')}`"
        yield ""
    if origin.code:
        yield from ("```python", origin.code.replace("```", "'''").strip(), "```", "")
    tensors = [*origin.inputs, *([origin.output] if origin.output else [])]
    if tensors:
        yield "| tensor | shape | dtype | min | max | non-finite | element |"
        yield "|---|---|---|---|---|---|---|"
        for t in tensors:
            numbers = f"{number_text(t.min)} | {number_text(t.max)} | {t.nonfinite:,}"
            element = element_text(t).removeprefix("element ")
            yield f"| {_cell(t.name)} | {shape_text(t.shape)} | {_cell(t.dtype)} | {numbers} | {element} |"
        yield ""
    if rows:
        yield f"Of the batch: {_plain(rows)}."
        yield ""
    if len(origin.stack) > 1:
        yield from ("Called from:", "")
        yield from (f"- `{_code(f.file)}:{f.line}` in `{_code(f.function)}`" for f in origin.stack[1:_STACK_LENGTH])
        yield ""


def _plain(text: str) -> str:
    """One line in which Markdown finds no HTML, link or picture."""
    text = " ".join(text.split())
    for letter in "\\<>[]*_|":
        text = text.replace(letter, "\\" + letter)
    return text


def _code(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")


def _cell(text: str) -> str:
    return f"`{_code(text).replace('|', '/')}`"

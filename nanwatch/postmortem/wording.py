"""A ruling in the words of the user's own code: which line, which rows, which value, and what to change there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from nanwatch.postmortem.case import Ruling
from nanwatch.postmortem.remedies import REMEDIES
from nanwatch.records import Cause, Origin

_EXPLANATION = re.compile(r"[;:] ")
_LONGEST_CODE = 80
_LONGEST_LIST = 6
_AT_THE_LINE = {"log_of_zero", "division_by_zero", "sqrt_zero_grad", "pow_zero_grad", "where_gradient",
                "invalid_domain", "overflow_exp", "overflow_low_precision", "masked_softmax", "empty_reduction",
                "degenerate_linalg", "custom_function_bug"}  # fmt: skip
"""Causes that are mended at the origin's line itself."""


def worded(ruling: Ruling, origin: Origin) -> Cause:
    """The cause as people read it."""
    what, colon, because = _split(ruling.did)
    sentence = f"{subject(origin)} {what}{_where(origin)}{colon}{because}."
    fix = (*ruling.fix, *fixes(ruling.label, origin))
    return Cause(ruling.label, ruling.confidence, (sentence, *ruling.more), fix)


def _split(did: str) -> tuple[str, str, str]:
    """What was done, and the explanation behind its first semicolon or colon."""
    found = _EXPLANATION.search(did)
    return (did, "", "") if found is None else (did[: found.start()], found.group(), did[found.end() :])


def subject(origin: Origin) -> str:
    """`x = torch.log(p)` at train.py:41."""
    place = place_of(origin)
    if origin.code:
        code = origin.code if len(origin.code) <= _LONGEST_CODE else origin.code[: _LONGEST_CODE - 3] + "..."
        return f"`{code}`{f' at {place}' if place else ''}"
    return f"{origin.op or 'the operation'}{f' at {place}' if place else ''}"


def place_of(origin: Origin) -> str | None:
    """`train.py:41`, or None where the line is not known."""
    return f"{origin.file.rpartition('/')[2]}:{origin.line}" if origin.file and origin.line else None


def fixes(label: str, origin: Origin | None) -> tuple[str, ...]:
    """The remedies; the first names the line where that is the place to change."""
    known = REMEDIES.get(label, REMEDIES["unknown"])
    place = None if origin is None else place_of(origin)
    return (f"At {place}: {known[0]}", *known[1:]) if place and label in _AT_THE_LINE else known


def listed(noun: str, numbers: Sequence[int]) -> str:
    """`row 3`, `rows 3, 5 and 17`, `rows 0, 1, 2, 3, 4, 5 and 10 more`; empty where there is none."""
    if not numbers:
        return ""
    if len(numbers) == 1:
        return f"{noun} {numbers[0]}"
    shown = [str(n) for n in numbers[:_LONGEST_LIST]]
    last = f"{len(numbers) - _LONGEST_LIST} more" if len(numbers) > _LONGEST_LIST else shown.pop()
    return f"{noun}s {', '.join(shown)} and {last}"


def _where(origin: Origin) -> str:
    rows = listed("row", origin.batch_rows)
    at = None if origin.output is None else origin.output.position
    position = f"position {list(at)}" if at else ""
    told = f"{rows} ({position})" if rows and position else rows or position
    if not told:
        return ""
    return f", in {told}" if rows else f", at {told}"

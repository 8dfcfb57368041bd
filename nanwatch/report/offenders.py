"""What was bad, in words: an element of a tensor, the rows and columns of the batch, the samples they are."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nanwatch.records import Incident, TensorSummary
from nanwatch.report.figures import number_text

_MOST = 10


def tensor_text(tensor: TensorSummary) -> str:
    """`self [8, 16] float32, 0 ... 0.7, 2 not finite; element [3, 0] is 0`."""
    shape = str(list(tensor.shape)) if tensor.shape else "scalar"
    bad = f"{tensor.nonfinite:,} not finite" if tensor.nonfinite else ""
    facts = ", ".join(filter(None, [f"{tensor.name} {shape} {tensor.dtype}", span_text(tensor), bad]))
    element = element_text(tensor)
    return f"{facts}; {element}" if element else facts


def span_text(tensor: TensorSummary) -> str:
    """`0 ... 0.7`, the range of the finite elements; empty for what has none, as a mask."""
    if tensor.min is None or tensor.max is None:
        return "nothing finite" if tensor.nonfinite else ""
    if tensor.min == tensor.max:
        return f"{'all ' if tensor.shape else ''}{plain_number(tensor.min)}"
    return f"{plain_number(tensor.min)} ... {plain_number(tensor.max)}"


def element_text(tensor: TensorSummary) -> str:
    """`element [3, 0] is 0`; empty where it is not known which element it was."""
    if tensor.position is None or not tensor.shape:
        return ""
    return f"element {list(tensor.position)} is {element_value(tensor)}"


def element_value(tensor: TensorSummary) -> str:
    """The offending element as a number; a NaN has no other value to tell."""
    return "NaN" if tensor.value is None else plain_number(tensor.value)


def plain_number(value: float | None) -> str:
    """As a number is written for people, in letters that every terminal and every search has."""
    return number_text(value).replace("−", "-").replace("∞", "inf").replace("—", "none")


def offender(tensors: Sequence[TensorSummary]) -> TensorSummary | None:
    """The tensor whose element most likely did it: one that is not finite, a zero, else the largest. None if unknown.

    Of the operands of a division that gave infinity this is the divisor.
    """
    located = [t for t in tensors if t.position is not None]
    return max(reversed(located), key=_suspicion, default=None)


def _suspicion(tensor: TensorSummary) -> tuple[bool, bool, float]:
    value = tensor.value
    if value is None or not math.isfinite(value):
        return True, False, 0.0
    return False, value == 0, abs(value)


def rows_text(incident: Incident) -> str:
    """`row 3 (sample 1841), feature 2`; empty where no row of the batch is known to be bad."""
    origin = incident.origin
    if origin is None or not (origin.batch_rows or origin.batch_features):
        return ""
    parts = []
    if origin.batch_rows:
        named = [row_text(row, incident.sample_ids) for row in origin.batch_rows[:_MOST]]
        parts.append(_listed("row", named, len(origin.batch_rows)))
    if origin.batch_features:
        named = [str(column) for column in origin.batch_features[:_MOST]]
        parts.append(_listed("feature", named, len(origin.batch_features)))
    return ", ".join(parts)


def row_text(row: int, sample_ids: Sequence[int | str]) -> str:
    """`3 (sample 1841)`, or `3` where nobody knows which sample it is."""
    return f"{row} (sample {sample_ids[row]})" if 0 <= row < len(sample_ids) else str(row)


def _listed(noun: str, named: Sequence[str], count: int) -> str:
    more = f" and {count - len(named):,} more" if count > len(named) else ""
    return f"{noun}{'' if count == 1 else 's'} {', '.join(named)}{more}"

"""The one way in which a noun becomes JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def json_ready(value: Any) -> Any:
    """The value as what `json.dumps(allow_nan=False)` accepts: non-finite floats become strings.

    NaN -> "NaN", inf -> "Infinity", -inf -> "-Infinity"; dataclasses and tuples become dicts and lists.
    """
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_ready(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_ready(v) for v in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    return repr(value)[:200]


def number(value: Any) -> float:
    """The float behind a JSON number or one of the three strings that stand for a non-finite one."""
    return float(value)

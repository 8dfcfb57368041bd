"""The lines of a program around one of them."""

from __future__ import annotations

import linecache
from typing import Any

CONTEXT_LINES = 6


def source_around(file: str | None, line: int | None) -> dict[str, Any] | None:
    """The lines around `line` of `file`, or None where the source is not to be had (a notebook that is gone)."""
    if file is None or line is None:
        return None
    linecache.checkcache(file)
    lines = linecache.getlines(file)
    if not lines:
        return None
    first = max(1, line - CONTEXT_LINES)
    kept = [text.rstrip("\n") for text in lines[first - 1 : line + CONTEXT_LINES]]
    return {"file": file, "first_line": first, "lines": kept, "marked": line}

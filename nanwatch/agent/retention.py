"""Keeps the spool within its budget: what was read and is in the timeline on disk can go, oldest first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from nanwatch.spool.frames import HEADER
from nanwatch.spool.reader import Position

BUDGET_BYTES = 1024**3
FREE_SHARE = 0.1


def empty_old_segments(
    spool: Path, done: Mapping[int, Position], budget_bytes: int = BUDGET_BYTES, free_share: float = FREE_SHARE
) -> int:
    """Empty segments until the spool fits into its budget or a tenth of the free disk; returns how many.

    `done`: rank -> position up to which nothing needs the spool any more. A segment is emptied to its header and not
    deleted, so that a reader that begins anew finds no gap; the first one of a rank stays: it says who the rank is.
    Raises: OSError.
    """
    sizes = {path: path.stat().st_size for path in spool.glob("r*/*.seg")}
    budget = min(budget_bytes, free_share * shutil.disk_usage(spool).free)
    excess = sum(sizes.values()) - budget
    emptied = 0
    for path, size in sorted(sizes.items(), key=lambda entry: entry[0].stem):
        if excess <= 0:
            break
        number = int(path.stem)
        if size > len(HEADER) and 1 < number < done.get(int(path.parent.name[1:]), (0, 0))[0]:
            os.truncate(path, len(HEADER))
            excess -= size - len(HEADER)
            emptied += 1
    return emptied

"""`bad_batches.jsonl`: the batches that gave a non-finite value, so that a resumed training can leave them out."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from nanwatch.records import json_ready

SCHEMA = "nanwatch.bad_batch/1"
MAX_LINES = 10_000
"""So that a training which skips for weeks does not fill the disk; what is over is counted in the notes."""

Reason = Literal["incident", "skipped_by_the_program", "update_skipped"]


class BadBatches:
    """Appends a line a batch; ranks of one run share the file."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "bad_batches.jsonl"
        self._lines = 0

    def add(
        self,
        *,
        reason: Reason,
        rank: int,
        step: int,
        step_total: int,
        micro_step: int,
        rows: Sequence[int],
        sample_ids: Sequence[Any] | None,
        incident_id: str | None = None,
    ) -> bool:
        """Write a line; False when the file is full.

        rows:        rows of the batch that made the value; empty where they are not known.
        sample_ids:  ids of all rows of the batch, or None.

        Raises: OSError when it cannot be written.
        """
        if self._lines >= MAX_LINES:
            return False
        self._lines += 1
        known = sample_ids is not None and all(row < len(sample_ids) for row in rows)
        line = {
            "schema": SCHEMA,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "reason": reason,
            "rank": rank,
            "step": step,
            "step_total": step_total,
            "micro_step": micro_step,
            "rows": list(rows),
            "bad_ids": [sample_ids[row] for row in rows] if known and sample_ids is not None else None,
            "sample_ids": None if sample_ids is None else list(sample_ids),
            "incident_id": incident_id,
        }
        text = json.dumps(json_ready(line), default=str) + "\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
        return True

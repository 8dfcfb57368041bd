"""Counts of what was seen, sent and dropped, by reason: `ledger.json`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nanwatch.agent.json_file import write_json
from nanwatch.sinks.sink import LedgerView, RunEnd


class Ledger:
    """Keys are `seen.<what>`, `sent.<what>`, `dropped.<reason>`, `failed.<what>`; beside them each sink's own state."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / "ledger.json"
        self.end: RunEnd | None = None
        self._counts: Counter[str] = Counter()

    def seen(self, what: str, count: int = 1) -> None:
        self._counts[f"seen.{what}"] += count

    def sent(self, what: str, total: int) -> None:
        """So many in all, as who sends them says."""
        self._counts[f"sent.{what}"] = total

    def dropped(self, reason: str, count: int = 1) -> None:
        self._counts[f"dropped.{reason}"] += count

    def failed(self, what: str, count: int = 1) -> None:
        """One of nanwatch's own faults."""
        self._counts[f"failed.{what}"] += count

    def view(self) -> LedgerView:
        return LedgerView(dict(sorted(self._counts.items())))

    def write(self, time: str, sinks: Mapping[str, Mapping[str, Any]]) -> None:
        """Replace `ledger.json`. Raises: OSError."""
        content = {
            "schema": "nanwatch.ledger/1",
            "time": time,
            "counts": self.view().counts,
            "sinks": sinks,
            "end": self.end,
        }
        write_json(self._path, content)

    def earlier_end(self) -> RunEnd | None:
        """How the run ended, as an earlier agent saw it: what the kernel tells, it tells only once."""
        try:
            return RunEnd(**json.loads(self._path.read_text())["end"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

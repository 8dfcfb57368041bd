"""`alerts.jsonl`: every alert transition, one JSON object a line, appended with one `os.write` a line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanwatch.errors import SinkError
from nanwatch.records import Alert, Record, json_ready
from nanwatch.sinks.sink import FinishedIncident, RunEnd

SCHEMA = "nanwatch.alert/1"


class JsonlSink:
    """Appends alerts to a file, in order and each once: a transition that is in the file already is left out.

    What cannot be written (a full disk) is kept and written by a later `ship`. Files are 0600.
    """

    name = "jsonl"

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._waiting: list[bytes] = []
        self._written = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._known = self._read_back()

    def observe(self, record: Record) -> None:
        """Telemetry does not go here."""

    def incident(self, finished: FinishedIncident) -> None:
        """Incidents have their own folder."""

    def alert(self, alert: Alert) -> None:
        """Queue one transition for the next `ship`."""
        key = (alert.id, alert.state, alert.step)
        if key in self._known:
            return
        self._known.add(key)
        line = {"schema": SCHEMA, "time": iso(self._clock()), **json_ready(alert)}
        self._waiting.append(json.dumps(line, allow_nan=False, ensure_ascii=False).encode() + b"\n")

    def ship(self, now_unix_s: float, *, final: bool) -> bool:  # noqa: ARG002  # the protocol's
        """Write what is queued. Raises: SinkError when the disk does not take it; nothing is lost then."""
        while self._waiting:
            try:
                self._append(self._waiting[0])
            except OSError as e:
                raise SinkError(f"{self._path}: {e.strerror or e}") from e
            del self._waiting[0]
            self._written += 1
        return True

    def close(self, end: RunEnd) -> None:  # noqa: ARG002  # the protocol's
        """Nothing is said about the run's end: it is not an alert."""
        os.close(self._fd)

    def state(self) -> dict[str, Any]:
        return {"written": self._written, "waiting": len(self._waiting)}

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._fd).st_size
        if os.write(self._fd, line) != len(line):
            os.ftruncate(self._fd, size)
            raise OSError(28, "no space left on device")

    def _read_back(self) -> set[tuple[str, str, int]]:
        """The transitions that an earlier agent wrote; a line that it was killed in is cut off."""
        with open(self._path, "rb") as file:
            data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole != len(data):
            os.ftruncate(self._fd, whole)
        known = set()
        for line in data[:whole].splitlines():
            try:
                entry = json.loads(line)
                known.add((entry["id"], entry["state"], entry["step"]))
            except (ValueError, KeyError, TypeError):
                continue
        return known


def iso(time_unix_s: float) -> str:
    """Unix seconds as `2026-11-23T19:01:02.345Z`."""
    return datetime.fromtimestamp(time_unix_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

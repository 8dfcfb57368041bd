"""What waits for one sink: bounded telemetry, and alerts and incidents that are never dropped."""

from __future__ import annotations

from collections import deque
from itertools import islice

from nanwatch.records import Alert, LogRecord, Record, StepRecord, VitalsRecord
from nanwatch.sinks.sink import FinishedIncident

Item = Record | Alert | FinishedIncident

MAX_RECORDS = 50_000
MAX_BYTES = 64 * 1024 * 1024


class Inbox:
    """First in, first out. When it is full, the older half of the telemetry goes and is counted in `shed`.

    Not locked: its owner is.
    """

    def __init__(self, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        self.shed = 0
        self._items: deque[Item] = deque()
        self._bytes = 0
        self._max_records = max_records
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: Item) -> None:
        self._items.append(item)
        self._bytes += _size_bytes(item)
        if len(self._items) > self._max_records or self._bytes > self._max_bytes:
            self._shed_older_half()

    def take_all(self) -> list[Item]:
        taken = list(self._items)
        self._items.clear()
        self._bytes = 0
        return taken

    def _shed_older_half(self) -> None:
        half = len(self._items) // 2
        kept = [
            item for item in islice(self._items, half) if not isinstance(item, StepRecord | LogRecord | VitalsRecord)
        ]
        self.shed += half - len(kept)
        self._items = deque([*kept, *islice(self._items, half, None)])
        self._bytes = sum(map(_size_bytes, self._items))


def _size_bytes(item: Item) -> int:
    return 200 + (item.stats_KS.nbytes if isinstance(item, StepRecord) else 0)

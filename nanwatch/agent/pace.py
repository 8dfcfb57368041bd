"""How long to wait between two looks at the spool, and what is due by the clock."""

from __future__ import annotations

SHORTEST_S = 0.02
LONGEST_S = 0.5


class Pace:
    """Short waits while records come, growing to half a second while none do."""

    def __init__(self) -> None:
        self._wait_s = SHORTEST_S

    def after(self, records: int) -> float:
        """Seconds to wait after a look that found so many records."""
        self._wait_s = SHORTEST_S if records else min(self._wait_s * 1.5, LONGEST_S)
        return self._wait_s


class Every:
    """Due at first asking and then each `interval_s`."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_s = float("-inf")

    def due(self, now_s: float) -> bool:
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._interval_s
        return True

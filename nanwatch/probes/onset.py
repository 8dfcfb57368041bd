"""One incident an onset: it opens at the first non-finite step and closes after a number of finite ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nanwatch.probes.live_slot import LiveSlot
from nanwatch.probes.trip import Trip

CLOSE_AFTER = 20
"""Finite steps that end an incident."""


class Onset:
    """Hands on the first trip of each onset; a later one only where the training itself was being traced."""

    def __init__(
        self, on_trip: Callable[[Trip], None], on_fold: Callable[[int, int, bool], None], live: LiveSlot
    ) -> None:
        self.open = False
        """An incident is going on."""
        self._on_trip = on_trip
        self._on_fold = on_fold
        self._live = live
        self._bad_steps = 0
        self._finite_since = 0

    def seen(self, trip: Trip) -> None:
        """A non-finite value."""
        self._finite_since = 0
        if not self.open:
            self.open = True
            self._on_trip(trip)
        elif self._live.has_trace:
            self._on_trip(replace(trip, again=True))

    def step_over(self, number: int, *, bad: bool) -> None:
        """A step is complete; later bad steps are folded into the incident that is open."""
        if not self.open:
            return
        self._bad_steps += bad
        self._finite_since = 0 if bad else self._finite_since + 1
        if self._finite_since >= CLOSE_AFTER:
            self.open = False
            self._on_fold(number, self._bad_steps, False)
            self._bad_steps = 0
        elif bad and self._bad_steps % 100 == 0:
            self._on_fold(number, self._bad_steps, True)

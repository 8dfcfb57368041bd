"""Overflow that a loss scale makes on purpose, told from a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nanwatch.probes.flight_recorder import FlightRecorder
from nanwatch.probes.trip import Trip

MAX_CHECKS = 50


class OverflowCheck:
    """GradScaler's factor overflows gradients on purpose; only what stays non-finite without it is a fault."""

    def __init__(self, recorder: FlightRecorder, stays_without_factor: Callable[[Trip], bool]) -> None:
        self._recorder = recorder
        self._stays_without_factor = stays_without_factor
        self._checks = 0

    def is_real(self, trip: Trip) -> bool:
        """Whether bad gradients are a fault, outside of an incident. After MAX_CHECKS no replay asks any more."""
        if not trip.scaled:
            trip = self._without_own_factor(trip)
        if not trip.scaled or self._checks >= MAX_CHECKS:
            return not trip.scaled
        self._checks += 1
        return self._stays_without_factor(trip)

    def _without_own_factor(self, trip: Trip) -> Trip:
        """The trip with the loss as it was before the program multiplied it by a loss scale of its own."""
        assert trip.backward is not None
        roots = [self._recorder.scaled_by(r) for r in trip.backward.tensors]
        known = [r for r in roots if r is not None]
        if not known or len(known) < len(roots):
            return trip
        backward = replace(trip.backward, roots=tuple(ref for ref, _ in known))
        return replace(trip, backward=backward, scaled=True, scale=known[0][1])

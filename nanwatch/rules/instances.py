"""The state machine of alert instances, for all instances of a rule at once.

inactive -> pending (bad for less than `for_steps`) -> firing -> recovering (good for less than `keep_firing_steps`) ->
inactive. Each is an array over K instances, so that 10,000 tensors cost what one does.

Source: Prometheus alerting rules (`for`, `keep_firing_for`),
https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanwatch.rules.rule import Reading, Rule

INACTIVE, PENDING, FIRING, RECOVERING = range(4)


@dataclass(frozen=True)
class Changes:
    """Indices of the instances that changed their state, by what they changed to."""

    pending: NDArray[np.intp]
    firing: NDArray[np.intp]
    """From pending, or at once."""
    relapsed: NDArray[np.intp]
    """From recovering back to firing."""
    recovering: NDArray[np.intp]
    resolved: NDArray[np.intp]
    """From pending, firing or recovering."""


class Instances:
    """States of K instances."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._table_KF = _empty(0)

    @property
    def active(self) -> frozenset[str]:
        """Names of the instances that fire or recover."""
        return frozenset(self.names[k] for k in np.flatnonzero(self._table_KF["state"] >= FIRING))

    def align(self, names: tuple[str, ...]) -> None:
        """Follow a change of the instances' names; those that stay keep their state."""
        if names is self.names:
            return
        if names != self.names:
            row = {name: k for k, name in enumerate(self.names)}
            table_KF = _empty(len(names))
            for k, name in enumerate(names):
                if name in row:
                    table_KF[k] = self._table_KF[row[name]]
            self._table_KF = table_KF
        self.names = names

    def advance(self, now: int, reading: Reading, rule: Rule) -> Changes | None:
        """One step of the state machine; None when nothing changed."""
        self.align(reading.names)
        t = self._table_KF
        bad = reading.bad_K & reading.known_K
        if not bad.any() and not t["state"].any():
            return None
        good = reading.known_K & ~reading.bad_K
        before = t["state"].copy()

        begins = bad & (before == INACTIVE) & (now >= t["quiet_until"])
        t["began"][begins] = now
        t["state"][begins] = PENDING
        t["last_bad"][bad] = now
        fires = bad & (t["state"] == PENDING) & (now - t["began"] + 1 >= rule.for_steps)
        t["state"][fires] = FIRING
        relapses = bad & (before == RECOVERING)
        t["state"][relapses] = FIRING

        held_long_enough = now - t["last_bad"] >= rule.keep_firing_steps
        ends = good & (before >= FIRING) & held_long_enough
        calms = good & (before == PENDING)
        recovers = good & (before == FIRING) & ~held_long_enough
        t["quiet_until"][ends] = now + rule.cooldown_steps
        t["state"][ends | calms] = INACTIVE
        t["state"][recovers] = RECOVERING

        where = np.flatnonzero
        return Changes(where(begins & ~fires), where(fires), where(relapses), where(recovers), where(ends | calms))

    def snapshot(self) -> list[list[Any]]:
        """JSON-ready rows of the instances that are not at rest: name, state, began, last_bad, quiet_until."""
        t = self._table_KF
        busy = np.flatnonzero((t["state"] != INACTIVE) | (t["quiet_until"] > 0))
        return [[self.names[k], *(int(v) for v in t[k])] for k in busy]

    def restore(self, rows: list[list[Any]]) -> None:
        """Take up rows made by `snapshot`."""
        self.names = tuple(str(row[0]) for row in rows)
        self._table_KF = _empty(len(rows))
        for k, row in enumerate(rows):
            self._table_KF[k] = tuple(int(v) for v in row[1:])


def _empty(count: int) -> NDArray[Any]:
    fields = [("state", np.int8), ("began", np.int64), ("last_bad", np.int64), ("quiet_until", np.int64)]
    return np.zeros(count, dtype=fields)

"""What a sink is. Built-in sinks and those of plugins look the same to the agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from nanwatch.records import Alert, Incident, Record


@dataclass(frozen=True)
class FinishedIncident:
    """An incident whose bundle is whole: manifest written, folder renamed."""

    incident: Incident
    folder: Path


@dataclass(frozen=True)
class RunEnd:
    """How the trainer ended, as far as anything tells it."""

    reason: str
    """finished, exception, stopped, detached, killed, out_of_memory, vanished: the tag `nanwatch.end_reason`."""
    detail: str
    status: str
    """FINISHED, FAILED or KILLED: MLflow's word for it."""


@dataclass(frozen=True)
class LedgerView:
    """Counts of seen, sent and dropped by reason, as `ledger.json` has them."""

    counts: dict[str, int] = field(default_factory=dict)


@runtime_checkable
class Sink(Protocol):
    """A place where things leave the run.

    The agent calls every method from one thread that belongs to this sink. `observe`, `alert` and `incident` take
    things in and return at once; `ship` does the slow part.
    """

    name: str

    def observe(self, record: Record) -> None:
        """Take in one record of the telemetry road, in the order of the spool."""

    def alert(self, alert: Alert) -> None:
        """Take in one transition of an alert."""

    def incident(self, finished: FinishedIncident) -> None:
        """Take in an incident whose bundle is whole."""

    def ship(self, now_unix_s: float, *, final: bool) -> bool:
        """Send what is due; with `final` everything that is left. True when nothing is left to send.

        Raises: SinkError when the other side refuses or cannot be reached; the agent calls again later.
        """

    def close(self, end: RunEnd) -> None:
        """The trainer is gone and everything was shipped: say so to the other side. Called once.

        Raises: SinkError, as `ship`.
        """

    def state(self) -> dict[str, Any]:
        """Counts for the ledger and facts for other rooms (the MLflow run's id, for example)."""

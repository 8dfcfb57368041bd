"""Reads the spools of all ranks and hands each record on: timeline, rules, alerts, sinks; then acknowledges."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from nanwatch.agent.incident import IncidentFinisher
from nanwatch.agent.json_file import write_json
from nanwatch.agent.ledger import Ledger
from nanwatch.agent.timeline import Timeline
from nanwatch.agent.trainers import Trainers
from nanwatch.errors import NanwatchError, SinkError
from nanwatch.records import (
    Alert,
    EndRecord,
    IncidentRecord,
    NamesRecord,
    NoteRecord,
    Record,
    RunRecord,
    StepRecord,
    Tick,
)
from nanwatch.sinks.jsonl import JsonlSink
from nanwatch.sinks.sink import FinishedIncident
from nanwatch.spool.reader import Position, SpoolReader

log = logging.getLogger("nanwatch.agent")

BATCH = 256
"""Records of one rank between two acknowledgements: small, because a record can have thousands of tensors."""


class Rules(Protocol):
    """What the loop needs of a rule engine."""

    def observe(self, record: Record) -> list[Alert]: ...


class Outlet(Protocol):
    """What the loop needs of a sink's runner."""

    def put(self, item: Record | Alert | FinishedIncident) -> None: ...


class Loop:
    """One pass reads what is new in every spool and sees it through: when `ack.json` has a position, everything before
    it is in `alerts.jsonl`, and the bundles of its incidents are whole. What needs a network is not waited for.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        rules: Rules,
        timeline: Timeline,
        alerts: JsonlSink,
        finisher: IncidentFinisher,
        trainers: Trainers,
        outlets: Sequence[Outlet],
        ledger: Ledger,
        clock: Callable[[], float],
    ) -> None:
        self._run_dir = run_dir
        self._rules = rules
        self._timeline = timeline
        self._alerts = alerts
        self._finisher = finisher
        self._trainers = trainers
        self._outlets = outlets
        self._ledger = ledger
        self._clock = clock
        self._readers: dict[int, SpoolReader] = {}
        self._acknowledged: dict[int, Position] = {}

    @property
    def positions(self) -> dict[int, Position]:
        return {rank: reader.position for rank, reader in self._readers.items()}

    def one_pass(self, *, final: bool = False) -> int:
        """Read, hand on and acknowledge a batch of every rank; the number of records. `final`: no writer lives."""
        self._find_ranks()
        count = 0
        for rank, reader in self._readers.items():
            count += self._one_rank(rank, reader, final=final)
        if self._write_alerts() and self.positions != self._acknowledged:
            self._acknowledge()
        return count

    def feed(self, record: Record) -> None:
        """Take in a record that the agent made itself."""
        self._hand_on(record)
        self._write_alerts()

    def finish_incidents(self, ids: Sequence[str]) -> None:
        """Finish bundles whose record never came."""
        for incident_id in ids:
            log.info("incident %s was left unfinished; finishing it now", incident_id)
            self._finish_incident(incident_id)

    def _one_rank(self, rank: int, reader: SpoolReader, *, final: bool) -> int:
        known_damage = len(reader.damaged)
        located = reader.read_located(BATCH, final=final)
        for reason in reader.damaged[known_damage:]:
            log.warning("spool of rank %d is damaged: %s", rank, reason)
            self._hand_on(NoteRecord(rank, "dropped_spool_damaged", 1, reason))
        for record, position in located:
            self._ledger.seen(type(record).__name__.removesuffix("Record").lower())
            if isinstance(record, NamesRecord):
                self._timeline.names(rank, record)
            elif isinstance(record, StepRecord):
                self._timeline.add(record, position)
            self._hand_on(record)
        return len(located)

    def _hand_on(self, record: Record) -> None:
        if isinstance(record, RunRecord):
            self._trainers.run(record)
        elif isinstance(record, EndRecord):
            log.info("rank %d says: %s %s", record.rank, record.reason, record.detail)
            self._trainers.farewell(record)
        elif isinstance(record, NoteRecord):
            self._note(record)
        self._judge(record)
        if not isinstance(record, Tick):
            for outlet in self._outlets:
                outlet.put(record)
        if isinstance(record, IncidentRecord):
            self._finish_incident(record.id)

    def _judge(self, record: Record) -> None:
        try:
            alerts = self._rules.observe(record)
        except Exception:
            self._ledger.failed("rules")
            log.exception("the rules failed on a %s", type(record).__name__)
            return
        for alert in alerts:
            log.info("alert %s is %s: %s", alert.rule, alert.state, alert.summary)
            self._ledger.seen(f"alert_{alert.state}")
            self._alerts.alert(alert)
            for outlet in self._outlets:
                outlet.put(alert)

    def _note(self, record: NoteRecord) -> None:
        if record.reason.startswith("dropped"):
            self._ledger.dropped(record.reason.removeprefix("dropped").lstrip("_") or "unknown", record.count)
        elif record.reason.startswith("fault_"):
            self._ledger.failed(record.reason.removeprefix("fault_"), record.count)
        else:
            self._ledger.seen(f"note_{record.reason}", record.count)
        log.info("rank %d notes %s (%d): %s", record.rank, record.reason, record.count, record.text)

    def _finish_incident(self, incident_id: str) -> None:
        try:
            finished = self._finisher.finish(incident_id)
        except Exception as e:
            # Anything may be wrong with a bundle; the run's other records must still get through.
            self._ledger.failed("bundle")
            log.log(
                logging.ERROR, "incident %s: %s", incident_id, e, exc_info=not isinstance(e, NanwatchError | OSError)
            )
            return
        if finished is not None:
            log.info("incident %s is complete", incident_id)
            self._ledger.seen("bundle")
            for outlet in self._outlets:
                outlet.put(finished)

    def _write_alerts(self) -> bool:
        """Whether all alerts are on disk."""
        try:
            self._alerts.ship(self._clock(), final=False)
        except SinkError as e:
            self._ledger.failed("alerts_jsonl")
            log.warning("%s; kept in memory and tried again", e)
            return False
        finally:
            self._ledger.sent("alert", int(self._alerts.state()["written"]))
        return True

    def _acknowledge(self) -> None:
        positions = self.positions
        ranks = {str(rank): list(position) for rank, position in positions.items()}
        try:
            write_json(self._run_dir / "ack.json", {"schema": "nanwatch.ack/1", "ranks": ranks})
        except OSError as e:
            self._ledger.failed("ack")
            log.warning("ack.json cannot be written: %s", e)
            return
        self._acknowledged = positions

    def _find_ranks(self) -> None:
        spool = self._run_dir / "spool"
        try:
            names = [p.name for p in spool.iterdir()]
        except FileNotFoundError:
            return
        for name in names:
            if name.startswith("r") and name[1:].isdigit() and int(name[1:]) not in self._readers:
                self._readers[int(name[1:])] = SpoolReader(spool / name)
                log.info("following the spool of rank %s", name[1:])

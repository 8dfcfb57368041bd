"""The incident road of a training process: from a trip to a bundle on disk, told once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanwatch.errors import NonFiniteError
from nanwatch.postmortem.examine import Examiner
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.flight_recorder import Stack
from nanwatch.probes.trip import Trip
from nanwatch.records import Incident, IncidentFoldRecord, IncidentRecord, NoteRecord, Record
from nanwatch.settings import Settings, switch
from nanwatch.trainer.aborted import exception_through
from nanwatch.trainer.announce import elsewhere_line, incident_lines, say
from nanwatch.trainer.bad_batches import BadBatches, Reason

MAX_SKIPPED_LOCATED = 20
"""Skipped batches whose rows are looked for; each look costs a few steps' time."""


class IncidentRoad:
    """Takes the trips of one process. Nothing that it does raises, but for the error that the user asked for."""

    def __init__(
        self,
        probes: Probes,
        examiner: Examiner,
        settings: Settings,
        folder: Path,
        rank: int,
        *,
        write: Callable[[Record], object],
        on_fault: Callable[[str, BaseException], None],
    ) -> None:
        self.incidents: list[Incident] = []
        self.not_examined = 0
        self.skipped = 0
        """Batches with a bad loss that the program's own guard has left aside."""
        self._probes = probes
        self._examiner = examiner
        self._settings = settings
        self._folder = folder
        self._rank = rank
        self._write = write
        self._on_fault = on_fault
        self._bad_batches = BadBatches(folder)
        self._untold: list[IncidentRecord] = []
        self._raised_at: Stack | None = None
        """Where the program was when the exception was raised that was examined last."""

    def on_trip(self, trip: Trip) -> None:
        if trip.kind == "skipped":
            self._tell_skipped(trip)
            return
        incident = None
        if trip.again:
            # The limit of bundles, and the error that the user asked for, have been told of at the first time.
            if self._may_examine(trip):
                self._examine(trip)
            return
        if self._may_examine(trip):
            incident = self._examine(trip)
        else:
            self.not_examined += 1
            self.note("incident_not_examined", f"step {trip.step}: {trip.seen.where}; the limit of bundles is reached")
        if trip.kind == "nonfinite" and self._settings.on_nonfinite == "stop":
            where = "" if incident is None or incident.origin is None else _where(incident)
            text = f"step {trip.step + self._settings.start_step}: {trip.seen.where} became {trip.seen.value}{where}"
            self._probes.tripwire.stop_with = NonFiniteError(text, incident)

    def on_fold(self, step: int, bad_steps: int, is_open: bool) -> None:
        last = next((i for i in reversed(self.incidents) if i.kind == "nonfinite"), None)
        if last is not None:
            self._write(IncidentFoldRecord(last.id, self._rank, step, is_open, bad_steps))

    def on_update_skipped(self, step: int, micro_steps: int) -> None:
        """`on_nonfinite="skip"` has dropped an update: its batch goes on the list."""
        last = self.incidents[-1] if self.incidents else None
        if last is None or last.step != step:
            self._list("update_skipped", step, max(0, micro_steps - 1), (), None, self._examiner.last_sample_ids())

    def tell(self) -> None:
        """Hand the incidents on, after the record of their step, so that the history in the bundle ends with it."""
        untold, self._untold = self._untold, []
        for record in untold:
            self._write(record)

    def examine_unfinished(self, error: BaseException | None = None) -> None:
        """The program ends or waits: a bad loss that no backward came for, or an exception, is told now."""
        tripwire = self._probes.tripwire
        stack = tripwire.unfinished.last_stack()
        if not stack:
            return
        try:
            error = error or exception_through(code for code, _ in stack[:2])
            if error is not None and stack is self._raised_at:
                return  # the excepthook comes before the exit, a flush before the detach
            self._raised_at = stack if error is not None else None
            tripwire.ended(error)
        except Exception as e:  # the last thing that a program does must not fail because of us
            self._on_fault("farewell", e)

    def note(self, reason: str, text: str) -> None:
        self._write(NoteRecord(self._rank, reason, 1, text))

    def _examine(self, trip: Trip) -> Incident | None:
        try:
            incident = self._examiner.examine(trip)
        except Exception as e:
            self.not_examined += 1
            self._on_fault("post-mortem", e)
            if switch("STRICT"):
                raise
            return None
        if incident is None:
            if trip.kind == "nonfinite" and not trip.again and self._examiner.ranks.several:
                self.note("told_by_another_rank", f"step {trip.step}: {', '.join(trip.seen.names[:3])}")
                if self._examiner.ranks.place[0] == 0:
                    say(elsewhere_line(trip.step + self._settings.start_step, str(self._folder / "incidents")))
            return None
        self.incidents.append(incident)
        if incident.kind == "nonfinite":
            rows = incident.origin.batch_rows if incident.origin is not None else ()
            self._list("incident", incident.step, incident.micro_step, rows, incident.id, incident.sample_ids)
        # The rank as the spool knows it: a process that was attached before its group existed is alone in its folder.
        self._untold.append(IncidentRecord(incident.id, self._rank, incident.step, incident.step_total))
        if self._settings.on_nonfinite == "stop":
            self.tell()
        if incident.rank == 0 and incident.kind == "nonfinite":
            policy = self._settings.on_nonfinite
            say(incident_lines(incident, str(self._folder / "incidents" / incident.id), policy))
        return incident

    def _tell_skipped(self, trip: Trip) -> None:
        """A batch that the program's own guard has left aside: counted, and its rows kept."""
        self.skipped += 1
        rows: tuple[int, ...] = ()
        ids: tuple[Any, ...] = ()
        try:
            if self.skipped <= MAX_SKIPPED_LOCATED:
                rows, ids = self._examiner.rows_of(trip)
        except Exception as e:
            self._on_fault("post-mortem", e)
        self._list("skipped_by_the_program", trip.step, trip.micro_step, rows, None, ids)
        shown = f", row(s) {', '.join(map(str, rows[:10]))}" if rows else ""
        self.note("skipped_by_the_program", f"step {trip.step}: the loss was {trip.seen.value}{shown}")

    def _list(
        self, reason: Reason, step: int, micro_step: int, rows: tuple[int, ...], incident_id: str | None,
        ids: tuple[Any, ...],
    ) -> None:  # fmt: skip
        total = step + self._settings.start_step
        try:
            listed = self._bad_batches.add(
                reason=reason, rank=self._rank, step=step, step_total=total, micro_step=micro_step, rows=rows,
                sample_ids=ids or None, incident_id=incident_id,
            )  # fmt: skip
        except OSError as e:
            self._on_fault("bad batches", e)
            return
        if not listed:
            self.note("dropped_bad_batch", f"step {total}: bad_batches.jsonl is full")

    def _may_examine(self, trip: Trip) -> bool:
        if trip.kind == "capture":
            return True
        if sum(i.kind == "nonfinite" for i in self.incidents) >= self._settings.max_incidents:
            return False
        used = sum(f.stat().st_size for f in (self._folder / "incidents").rglob("*") if f.is_file())
        return used < self._settings.incident_budget_mib * 1024 * 1024


def _where(incident: Incident) -> str:
    o = incident.origin
    assert o is not None
    return f"; {o.op or o.param} at {o.file}:{o.line}; cause {incident.cause.label}; see incident {incident.id}"

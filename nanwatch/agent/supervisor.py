"""The agent's life: take the folder, follow the trainer, see everything through after its end, and end by itself."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

from nanwatch.agent.incident import IncidentFinisher
from nanwatch.agent.ledger import Ledger
from nanwatch.agent.lock import AgentLock
from nanwatch.agent.loop import BATCH, Loop
from nanwatch.agent.outlets import Outlets
from nanwatch.agent.pace import Every, Pace
from nanwatch.agent.retention import empty_old_segments
from nanwatch.agent.run_file import add_mlflow, load_run
from nanwatch.agent.timeline import Timeline
from nanwatch.agent.trainers import Trainers
from nanwatch.agent.vitals import Vitals
from nanwatch.errors import SetupError
from nanwatch.records import Tick
from nanwatch.rules.engine import RuleEngine
from nanwatch.rules.load import load_dumped
from nanwatch.rules.rule import Rule
from nanwatch.sinks.jsonl import JsonlSink, iso
from nanwatch.sinks.sink import RunEnd

log = logging.getLogger("nanwatch.agent")

FINAL_SHIPPING_S = 120.0
TERMINATED_SHIPPING_S = 20.0
"""After SIGTERM: whoever sends it, Slurm or Kubernetes, sends SIGKILL about 30 s later."""
TERMINATED_GRACE_S = 5.0
"""After SIGTERM the trainer, which usually gets one too, has this long to end, so that its end can be told."""
LOCK_PATIENCE_S = FINAL_SHIPPING_S + 30.0


class Supervisor:
    """Runs one agent in `run_dir` for the trainer `pid` that started at `start_time_unix_s`.

    Raises: SetupError when the folder has no readable `run.json`.
    """

    def __init__(self, run_dir: Path, pid: int, start_time_unix_s: float, environ: Mapping[str, str]) -> None:
        self._run_dir = run_dir
        self._terminated_at_s: float | None = None
        self._impatient = False
        self._merge_asked = False
        self._lock = AgentLock(run_dir)
        self._run = load_run(run_dir)
        self._trainers = Trainers(pid, start_time_unix_s)
        self._vitals = Vitals(pid, run_dir)
        self._ledger = Ledger(run_dir)
        self._earlier_end = self._ledger.earlier_end()
        self._outlets = Outlets(self._run, run_dir, environ)

    def terminate(self) -> None:
        """Ask for an early end, for a signal handler; asked twice, nothing is waited for."""
        self._impatient = self._terminated_at_s is not None
        self._terminated_at_s = self._terminated_at_s or time.monotonic()

    def merge_timeline(self) -> None:
        """Ask for a `timeline.parquet` of what there is so far, for a signal handler."""
        self._merge_asked = True

    def run(self) -> bool:
        """The agent's whole life; False when another agent serves this folder."""
        if not self._take_lock():
            return False
        try:
            history_steps = int(self._run.settings.get("history_steps", 200))
            self._timeline = Timeline(self._run_dir, history_steps=history_steps)
            self._alerts = JsonlSink(self._run_dir / "alerts.jsonl", time.time)
            self._finisher = IncidentFinisher(
                self._run_dir,
                history=lambda step: self._timeline.history(history_steps, until_step=step),
                upload=self._outlets.upload_policy,
            )
            self._loop = Loop(
                self._run_dir,
                rules=RuleEngine(_load_rules(self._run_dir)),
                timeline=self._timeline,
                alerts=self._alerts,
                finisher=self._finisher,
                trainers=self._trainers,
                outlets=self._outlets.runners,
                ledger=self._ledger,
                clock=time.time,
            )
            self._outlets.start()
            self._follow_to_the_end()
            self._see_through()
        finally:
            self._lock.release()
        return True

    def _take_lock(self) -> bool:
        until_s = time.monotonic() + LOCK_PATIENCE_S
        while not self._lock.acquire():
            # A trainer that detached and attached again meets its first agent while that one ships its last.
            if not self._lock.holder_is_ending() or time.monotonic() > until_s or self._terminated_at_s is not None:
                log.warning("another agent serves this folder (%s)", self._lock.path.name)
                return False
            time.sleep(0.1)
        return True

    def _follow_to_the_end(self) -> None:
        while True:
            self._follow()
            self._lock.mark_ending()
            # From here on a new agent waits for us; what was written before belongs to us.
            if not self._loop.one_pass(final=not self._trainers.any_alive) or self._terminated_at_s is not None:
                return
            self._lock.mark_serving()

    def _follow(self) -> None:
        """Until all trainers are over and all is read, or until we are told to end."""
        pace, look, tick, vitals, keep, trim = Pace(), Every(0.2), Every(1.0), Every(10.0), Every(2.0), Every(30.0)
        caught_up = False
        while True:
            over = self._trainers.all_over
            records = self._loop.one_pass(final=not self._trainers.any_alive)
            now_s = time.monotonic()
            if look.due(now_s):
                self._trainers.look(now_s)
            if records == 0 and (over or self._told_to_end(now_s)):
                return
            if not caught_up and records == 0:
                caught_up = True
                self._loop.finish_incidents(self._finisher.unfinished())
            if caught_up and tick.due(now_s):
                self._loop.feed(Tick(now_s, self._trainers.any_alive))
            if vitals.due(now_s):
                self._loop.feed(self._vitals.read(time.time()))
            if keep.due(now_s):
                self._keep_books()
            self._write_timeline(now_s)
            if trim.due(now_s):
                self._trim()
            time.sleep(pace.after(records) if records < BATCH else 0.0)

    def _see_through(self) -> None:
        now_s = time.monotonic()
        self._loop.feed(Tick(now_s, self._trainers.any_alive))
        self._loop.finish_incidents(self._finisher.unfinished())
        for name in self._finisher.torn():
            self._ledger.failed("torn_bundle")
            log.warning("the trainer ended while it wrote incidents/%s; what is there is not complete", name)
        self._close_timeline()
        end = self._tell_end()
        ending_s = time.monotonic()
        self._keep_books()
        self._outlets.finish(end, lambda: self._deadline_s(ending_s))
        self._trainers.close()
        self._keep_books()
        if end is not None:
            self._alerts.close(end)

    def _tell_end(self) -> RunEnd | None:
        if not self._trainers.all_over:
            log.info("told to end while the trainer lives; a later agent or `nanwatch sync` goes on")
            return None
        end = self._trainers.end()
        if end.reason == "vanished" and self._earlier_end is not None:
            end = self._earlier_end
        log.info("the run is over: %s (%s) %s", end.reason, end.status, end.detail)
        self._ledger.end = end
        return end

    def _told_to_end(self, now_s: float) -> bool:
        since_s = self._terminated_at_s
        return since_s is not None and (self._impatient or now_s - since_s >= TERMINATED_GRACE_S)

    def _deadline_s(self, ending_s: float) -> float:
        if self._terminated_at_s is None:
            return ending_s + FINAL_SHIPPING_S
        if self._impatient:
            return self._terminated_at_s
        return max(ending_s, self._terminated_at_s) + TERMINATED_SHIPPING_S

    def _write_timeline(self, now_s: float) -> None:
        try:
            self._timeline.write_if_due(now_s)
            if self._merge_asked:
                self._merge_asked = False
                self._timeline.merge()
        except OSError as e:
            self._ledger.failed("timeline")
            log.warning("the timeline cannot be written: %s; kept in memory and tried again", e)

    def _close_timeline(self) -> None:
        try:
            if self._impatient:
                self._timeline.write()
            else:
                self._timeline.merge(final=True)
        except OSError as e:
            self._ledger.failed("timeline")
            log.warning("timeline.parquet cannot be written: %s; its parts stay in timeline/", e)

    def _trim(self) -> None:
        try:
            emptied = empty_old_segments(self._run_dir / "spool", self._timeline.covered)
        except OSError as e:
            log.warning("the spool cannot be trimmed: %s", e)
            return
        if emptied:
            self._ledger.seen("spool_segment_emptied", emptied)
            log.info("%d segments of the spool were read long ago and are emptied", emptied)

    def _keep_books(self) -> None:
        self._lock.touch()
        facts = self._outlets.mlflow_facts()
        try:
            self._ledger.write(iso(time.time()), {**self._outlets.states(), self._alerts.name: self._alerts.state()})
            if facts:
                add_mlflow(self._run_dir, facts)
        except (OSError, ValueError) as e:
            log.warning("ledger.json or run.json cannot be written: %s", e)


def _load_rules(run_dir: Path) -> tuple[Rule, ...]:
    path = run_dir / "rules.json"
    try:
        return load_dumped(json.loads(path.read_text()))
    except (OSError, ValueError, SetupError) as e:
        log.warning("%s cannot be read, no rule is watched: %s", path, e)
        return ()

"""Everything that one training process has: the run's folder, the spool, the agent, the probes, the post-mortem."""

from __future__ import annotations

import logging
import os
import platform
import secrets
import socket
import sys
import time
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from nanwatch.agent.json_file import write_json
from nanwatch.postmortem.environment import installed_version
from nanwatch.postmortem.evidence import Privacy
from nanwatch.postmortem.examine import Examiner
from nanwatch.postmortem.ranks import agreed, rank_and_world_size
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.trip import Trip
from nanwatch.probes.watched import count_elements
from nanwatch.records import (
    EndRecord,
    LogRecord,
    NoteRecord,
    Record,
    RunRecord,
    StepRecord,
)
from nanwatch.rules.load import dump_rules
from nanwatch.rules.rule import Rule
from nanwatch.settings import Settings, switch
from nanwatch.spool.writer import SpoolWriter
from nanwatch.trainer.agent_process import AgentProcess, start_agent, wait_for_ack
from nanwatch.trainer.announce import attach_line, say
from nanwatch.trainer.farewell import Farewell, Reason
from nanwatch.trainer.folder import Place, claim, make_folder, place_of, run_name, unique
from nanwatch.trainer.guard import Guard, chosen_guard, told_guard
from nanwatch.trainer.incidents import IncidentRoad
from nanwatch.trainer.users_run import UsersRun

log = logging.getLogger("nanwatch")

LOOK_FOR_AGENT_AT = 2
"""Steps after which every process of the launch that is watched at all has been for a while."""


class TrainerRun:
    """One a process. Models come and go with attach and detach; the run ends with the last of them or the process."""

    def __init__(self, settings: Settings, rules: tuple[Rule, ...]) -> None:
        self.settings = settings
        self.rules = rules
        now = datetime.now(UTC)
        self.place: Place = place_of(os.environ, rank_and_world_size(), lambda: agreed("launch", unique(now)))
        self.closed = False
        self._pid = os.getpid()
        self.folder: Path = make_folder(settings.dir, run_name(self.place, now), log.warning)
        self.name = self.folder.name
        self.spool = SpoolWriter(str(self.folder / "spool" / f"r{self.place.rank}"), log.warning)
        self.users_run = UsersRun()
        self._mlflow_run_id = settings.run_id
        self.agent: AgentProcess | None = None
        self.steps = 0
        self._guard: Guard = "sync"
        self.probes = Probes(
            policy=settings.on_nonfinite,
            rank=self.place.rank,
            start_step=settings.start_step,
            emit=self._emit,
            on_trip=self._on_trip,
            is_overflow_real=self._overflow_is_real,
            on_fold=self._on_fold,
            report=self._on_fault,
            strict=switch("STRICT"),
        )
        self.examiner = Examiner(
            self.probes,
            self.folder / "incidents",
            rank=self.place.rank,
            world_size=self.place.world_size,
            start_step=settings.start_step,
            policy=settings.on_nonfinite,
            privacy=Privacy(
                settings.capture_batch, settings.capture_parameters, settings.max_batch_mib, settings.max_state_mib,
                settings.redact,
            ),
            sample_ids=settings.sample_ids,
            mlflow_run_id=lambda: self._mlflow_run_id,
            new_id=self._new_id,
        )  # fmt: skip
        self.road = IncidentRoad(
            self.probes, self.examiner, settings, self.folder, self.place.rank, write=self.spool.write,
            on_fault=self._on_fault,
        )  # fmt: skip
        self._farewell = Farewell(self.close, self.road.examine_unfinished)

    # --- models ---

    def start(self, models: dict[str, nn.Module]) -> None:
        """Put the probes on the models, write who trains what, start the agent."""
        self.add(models)
        self.examiner.ranks.register()
        record = self._run_record()
        self.spool.write(record)
        self._look_for_users_run()
        if self.place.starts_agent:
            self._serve(record)
        self._farewell.install()
        _tell_forked_children(self)
        if self.place.rank == 0:
            shown = [_describe(name, model) for name, model in models.items()]
            say(
                attach_line(
                    shown,
                    _relative(self.folder),
                    "on" if self.settings.mlflow else "off",
                    self.settings.on_nonfinite,
                    told_guard(self.settings, self._guard, models.values()),
                )
            )

    def add(self, models: dict[str, nn.Module]) -> None:
        for name, model in models.items():
            self.probes.add(name, model)
        self.examiner.remember_state()
        self._guard = chosen_guard(self.settings, self.probes.watched.models.values())
        self.probes.keep_shadow(self.settings.max_shadow_mib << 20 if self._guard == "shadow" else None)

    def remove(self, names: list[str]) -> None:
        for name in names:
            if name in self.probes.names:
                self.probes.remove(name)

    def add_optimizers(self, optimizers: list[Optimizer]) -> None:
        for optimizer in optimizers:
            self.probes.add_optimizer(optimizer)

    # --- the end ---

    def close(self, reason: Reason, detail: str = "") -> None:
        """Say farewell and take every hook off; the agent ships what is left and ends by itself. Safe to call twice."""
        if self.closed:
            return
        self.road.examine_unfinished()
        self.closed = True
        self.remove(self.probes.names)
        self.road.tell()
        if reason == "detached":
            self.examiner.ranks.leave()
        if not self.steps:
            text = "no optimizer step was seen: were the attached models trained by another process or thread?"
            self.spool.write(NoteRecord(self.place.rank, "no_step_seen", 1, text))
        self.spool.write(EndRecord(self.place.rank, reason, detail, time.time()))
        self.spool.close()
        self._farewell.remove()

    def flush(self, timeout_s: float) -> bool:
        """Wait until the agent has taken in what was sent so far."""
        self.road.examine_unfinished()
        self.road.tell()
        return wait_for_ack(self.folder, self.place.rank, self.spool.position, timeout_s, self._agent_may_answer)

    def health(self) -> dict[str, Any]:
        """Counts of what was seen, sent, dropped and contained so far."""
        return {
            "run": str(self.folder),
            "steps": self.steps,
            "records_sent": self.spool.sent,
            "records_dropped": self.spool.dropped,
            "incidents": len(self.road.incidents),
            "incidents_not_examined": self.road.not_examined,
            "batches_skipped_by_the_program": self.road.skipped,
            "faults": {s.name: s.faults for s in self.probes.shields if s.faults},
            "switched_off": sorted({s.name for s in self.probes.shields if s.blown}),
            "agent_alive": self.agent is not None and self.agent.poll() is None,
            "shadow_bytes": 0 if self.probes.shadow is None else self.probes.shadow.bytes,
            "tensors_watched": len(self.probes.watched.parameters),
        }

    # --- what the probes report ---

    def say(self, values: dict[str, float]) -> None:
        """`watch.log`."""
        step = self.probes.recorder.step
        total = step + self.settings.start_step
        self.spool.write(LogRecord(self.place.rank, step, total, time.time(), values))

    def _emit(self, record: Record) -> None:
        self.examiner.ranks.register()
        self.spool.write(record)
        if isinstance(record, StepRecord):
            self.steps += 1
            if record.update_skipped:
                self.road.on_update_skipped(record.step, record.micro_steps)
            self.road.tell()
            self._look_for_users_run()
            if self.steps == LOOK_FOR_AGENT_AT:
                self._serve_where_nobody_does()

    def _on_trip(self, trip: Trip) -> None:
        self.road.on_trip(trip)

    def _on_fold(self, step: int, bad_steps: int, is_open: bool) -> None:
        self.road.on_fold(step, bad_steps, is_open)

    def _overflow_is_real(self, trip: Trip) -> bool:
        return self.examiner.overflow_is_real(trip)

    def _on_fault(self, probe: str, fault: BaseException) -> None:
        log.warning(
            "nanwatch: a fault of its own in %s, training is not affected: %s: %s", probe, type(fault).__name__, fault
        )
        log.debug("details", exc_info=fault)
        self.spool.write(
            NoteRecord(self.place.rank, f"fault_{probe.replace(' ', '_')}", 1, f"{type(fault).__name__}: {fault}"[:500])
        )

    # --- parts ---

    def _new_id(self, step: int) -> str:
        return f"step-{step + self.settings.start_step:06d}-r{self.examiner.ranks.place[0]}-{secrets.token_hex(3)}"

    def _look_for_users_run(self) -> None:
        if not self.settings.mlflow:
            return
        try:
            found = self.users_run.look()
        except Exception as e:  # somebody else's library, somebody else's state
            log.debug("the active MLflow run cannot be read: %s", e)
            return
        if found is not None:
            self._mlflow_run_id = self._mlflow_run_id or found.run_id
            self.spool.write(found)

    def _serve(self, record: RunRecord) -> None:
        write_json(self.folder / "run.json", record)
        write_json(self.folder / "rules.json", dump_rules(self.rules))
        self._start_agent()

    def _serve_where_nobody_does(self) -> None:
        """The process whose task it is is not watched, or is on another host."""
        if self.agent is None and not self.place.starts_agent and claim(self.folder / "run.json"):
            self._serve(self._run_record())

    def _start_agent(self) -> None:
        s = self.settings
        secret = {
            "NANWATCH_WEBHOOK_URL": s.webhook.get_secret_value() if s.webhook else "",
            "NANWATCH_WEBHOOK_SECRET": s.webhook_secret.get_secret_value() if s.webhook_secret else "",
        }
        try:
            self.agent = start_agent(self.folder, os.environ, {k: v for k, v in secret.items() if v})
        except OSError as e:
            log.warning(
                "nanwatch: the agent cannot be started (%s); statistics and incidents stay in %s", e, self.folder
            )

    def _agent_may_answer(self) -> bool:
        return self.agent is None or self.agent.poll() is None

    def _run_record(self) -> RunRecord:
        mlflow = sys.modules.get("mlflow")
        return RunRecord(
            name=self.name,
            rank=self.place.rank,
            world_size=self.place.world_size,
            pid=os.getpid(),
            host=socket.gethostname(),
            time_unix_s=time.time(),
            models=tuple(
                {
                    "name": name, "type": type(model).__name__,
                    "parameters": count_elements(model.parameters()),
                    "tensors": sum(1 for _ in model.parameters()),
                }
                for name, model in self.probes.watched.models.items()
            ),
            versions={
                "python": platform.python_version(), "torch": torch.__version__,
                "nanwatch": installed_version("nanwatch") or "not installed",
                **({"mlflow": mlflow.__version__} if mlflow is not None else {}),
            },
            script=os.path.abspath(sys.argv[0]) if sys.argv and sys.argv[0] else "",
            settings=self.settings.for_agent(),
        )  # fmt: skip

    def leave_to_parent(self) -> None:
        """A forked child (a DataLoader worker) has our hooks but is not the trainer: nothing is observed in it."""
        if os.getpid() != self._pid and not self.closed:
            self.closed = True
            self.probes.switch_off()


def _tell_forked_children(run: TrainerRun) -> None:
    """Nothing can be taken back from `register_at_fork`, so it must not keep the run alive."""
    weak = weakref.ref(run)

    def in_child() -> None:
        alive = weak()
        if alive is not None:
            alive.leave_to_parent()

    os.register_at_fork(after_in_child=in_child)


def _describe(name: str, model: nn.Module) -> str:
    n = count_elements(model.parameters())
    size = f"{n / 1e6:.1f} M" if n >= 1e6 else f"{n / 1e3:.1f} k" if n >= 1e3 else str(n)
    label = f"{name}: {type(model).__name__}" if name else type(model).__name__
    return f"{label} ({size} parameters)"


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)

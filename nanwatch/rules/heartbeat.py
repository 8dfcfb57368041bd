"""The family `heartbeat`: the trainer lives, but makes no step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nanwatch.records import EndRecord, LogRecord, StepRecord, Tick
from nanwatch.rules.advice import readable
from nanwatch.rules.rule import CooldownSteps, Finding, Judge, KeepFiringSteps, Reading, Rule, WarmupSteps

if TYPE_CHECKING:
    from nanwatch.rules.series import Moment

_NAMES = ("",)
_FIX = (
    "See where it waits: py-spy dump --pid <the trainer's pid>.",
    "Usual suspects: a data loader worker, a collective that waits for a lost rank, a full disk, a long validation.",
    "If the pause is expected, raise timeout_s of this rule.",
)


class Heartbeat(Rule):
    """The trainer's process lives, but makes no step.

    Watches: the time since the last step or `watch.log()` of any rank.

    Why it matters: a hang costs as much as a crash and no exception tells of it.

    Fires when: nothing came for `timeout_s` seconds although the trainer's process is alive and did not say goodbye.

    Known problems: a long validation, evaluation or compilation without any step looks the same; raise `timeout_s`.

    Options: `timeout_s`.

    Source: SageMaker Debugger's StalledTrainingRule (1800 s).
    """

    numeric: ClassVar[bool] = False
    scope: ClassVar[Literal["rank", "run"]] = "run"

    type: Literal["heartbeat"] = "heartbeat"
    keep_firing_steps: KeepFiringSteps = 0
    cooldown_steps: CooldownSteps = 0
    warmup_steps: WarmupSteps = 0
    timeout_s: float = Field(default=600.0, gt=0, description="Seconds without a step.")

    def judge(self) -> Judge:
        return _HeartbeatJudge(self)


class _HeartbeatJudge:
    """Measures silence on the agent's clock alone: from the first tick after a sign of life."""

    def __init__(self, rule: Heartbeat) -> None:
        self._rule = rule
        self._silent_since_s: float | None = None
        self._steps = 0
        self._ranks: set[int] = set()
        self._ended: set[int] = set()

    def look(self, moment: Moment) -> Reading | None:
        record = moment.record
        if isinstance(record, StepRecord | LogRecord):
            self._ranks.add(record.rank)
            self._ended.discard(record.rank)
            self._steps += isinstance(record, StepRecord)
            self._silent_since_s = None
            return _reading(bad=False, silent_s=0.0, limit_s=self._rule.timeout_s)
        if isinstance(record, EndRecord):
            self._ended.add(record.rank)
            return None
        if not isinstance(record, Tick):
            return None
        if self._silent_since_s is None:
            self._silent_since_s = record.monotonic_s
        silent_s = record.monotonic_s - self._silent_since_s
        ended = bool(self._ended) and self._ranks <= self._ended
        bad = record.trainer_alive and not ended and silent_s >= self._rule.timeout_s
        return _reading(bad=bad, silent_s=silent_s, limit_s=self._rule.timeout_s)

    def explain(self, reading: Reading, k: int, moment: Moment) -> Finding:
        silent = readable(float(reading.values_K[k]))
        where = f"after step {moment.step_total}" if self._steps else "and never made its first step"
        return Finding(
            metric="heartbeat",
            summary=f"Training stalled: the process is alive but made no step for {silent} s {where}. {_FIX[0]}",
            value=float(reading.values_K[k]),
            limit=float(reading.limits_K[k]),
            fix=_FIX,
        )

    def snapshot(self) -> Any:
        """Without the clock: a restarted agent (perhaps after a reboot) starts to measure anew."""
        return {"steps": self._steps, "ranks": sorted(self._ranks), "ended": sorted(self._ended)}

    def restore(self, state: Any) -> None:
        self._steps = int(state["steps"])
        self._ranks, self._ended = set(state["ranks"]), set(state["ended"])


def _reading(*, bad: bool, silent_s: float, limit_s: float) -> Reading:
    return Reading(_NAMES, np.array([bad]), np.array([True]), np.array([silent_s]), np.array([limit_s]))

"""The family `nonfinite`: a NaN or an infinity in the loss, the gradients or the parameters."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from nanwatch.records import EndRecord, IncidentRecord, Severity, StepRecord
from nanwatch.rules.advice import readable
from nanwatch.rules.rule import CooldownSteps, Finding, Judge, Reading, Rule, RuleSeverity, WarmupSteps

if TYPE_CHECKING:
    from nanwatch.rules.series import Moment

_ONSET, _SCALER = 0, 1
_CUT_SHORT = {"stopped", "exception"}
_NAMES = ("", "loss_scale")
_FIX_LOSS = (
    "Open the incident's report: it names the operation and the line that made the first non-finite value.",
    "Look at this step's batch, then at log, sqrt, division and exp on the way to the loss.",
)
_FIX_GRADS = (
    "Open the incident's report: it names the operation whose gradient went bad and its forward line.",
    "The loss was finite: look for sqrt or a norm at 0, where() over a masked NaN, or an overflow in float16.",
)
_FIX_PARAMS = (
    "Go back to the last checkpoint before this step: no later step can repair the parameters.",
    'attach(model, on_nonfinite="skip") drops such an update before it reaches the parameters.',
)
_FIX_SCALER = (
    "Train in bfloat16, which has the range of float32, or keep the operation that overflows in float32.",
    "If the skips began at one step, look at that step's batch and at the activations that grow.",
)


DEFAULT_SCALE = 65536.0
"""What GradScaler starts with."""


class NonFinite(Rule):
    """A NaN or an infinity in the loss, the gradients or the parameters.

    Watches: the verdict on each step of each rank (loss, gradients, parameters) and the incidents.

    Why it matters: one such update makes every parameter NaN, and all steps after it are wasted.

    Fires when: a step is non-finite. Once per onset, not once per parameter: it is over after 20 finite steps. While it
    fires, rules that compare numbers are silent. It knows no warm-up.

    Known problems: GradScaler looks for its scale by overflowing on purpose, so a step that it skipped counts only from
    `max_scaler_skips` in a row (at a scale of 65536, where it starts by itself, or less), or when the scale falls below
    `min_loss_scale`; this is then a warning of its own. A loss that is NaN counts always: no scale makes one.

    Options: `max_scaler_skips`, `min_loss_scale`.

    Source: TensorBoard Debugger V2 (InfNanAlert), Megatron-LM (rerun state machine), Micikevicius et al. 2018.
    """

    numeric: ClassVar[bool] = False
    scope: ClassVar[Literal["rank", "run"]] = "run"
    inhibits: ClassVar[tuple[str, ...]] = (_NAMES[_ONSET],)

    type: Literal["nonfinite"] = "nonfinite"
    severity: RuleSeverity = "critical"
    cooldown_steps: CooldownSteps = 0
    warmup_steps: WarmupSteps = 0
    max_scaler_skips: Annotated[int, Field(ge=0)] = Field(
        default=20, description="Steps in a row that GradScaler may skip."
    )
    min_loss_scale: float = Field(default=1.0, ge=0, description="A loss scale below this is a warning.")

    def judge(self) -> Judge:
        return _NonFiniteJudge(self)


class _NonFiniteJudge:
    def __init__(self, rule: NonFinite) -> None:
        self._rule = rule
        self._bad: set[int] = set()
        self._last_bad_step: dict[int, int] = {}
        self._skips: dict[int, int] = {}
        self._scales: dict[int, float] = {}
        self._awaiting: dict[int, IncidentRecord] = {}

    def look(self, moment: Moment) -> Reading | None:
        if isinstance(moment.record, IncidentRecord):
            return self._incident(moment.record)
        if isinstance(moment.record, EndRecord):
            # Stopped on that step, the trainer never sent the record of it.
            incident = self._awaiting.get(moment.rank) if moment.record.reason in _CUT_SHORT else None
            return None if incident is None else _of_incident(incident.id, bad=True)
        if not isinstance(moment.record, StepRecord):
            return None
        rank = moment.rank
        incident_id = self._incident_of(moment)
        if moment.poisoned:
            self._bad.add(rank)
            self._last_bad_step[rank] = moment.step
        else:
            self._bad.discard(rank)
        if "loss_scale" in moment.values:
            self._scales[rank] = moment.values["loss_scale"]
        # From a start far above GradScaler's own the scale is only on its way down.
        counts = moment.scaler_overflow and not self._scales.get(rank, 0.0) > DEFAULT_SCALE
        self._skips[rank] = self._skips.get(rank, 0) + 1 if counts else 0
        skips, scale = max(self._skips.values()), min(self._scales.values(), default=math.nan)
        stuck = skips > self._rule.max_scaler_skips or scale < self._rule.min_loss_scale
        # Other ranks may be finite at the same step: it is over only when all are.
        bad = np.array([bool(self._bad), stuck])
        values, limits = np.array([_value(moment), scale]), np.array([math.nan, self._rule.min_loss_scale])
        return Reading(_NAMES, bad, np.array([True, True]), values, limits, incident_id=incident_id)

    def explain(self, reading: Reading, k: int, moment: Moment) -> Finding:
        if k == _SCALER:
            return self._scaler_finding(moment, float(reading.values_K[k]))
        record = moment.record
        if not isinstance(record, StepRecord):
            step = self._awaiting[moment.rank].step_total
            text = f"A non-finite value appeared at step {step}, the last one. {_FIX_LOSS[0]}"
            return Finding("loss", text, value=math.nan, fix=_FIX_LOSS, incident_id=reading.incident_id)
        bad_K = moment.bad_tensors_K
        bad = [] if bad_K is None else [moment.names[k] for k in np.flatnonzero(bad_K)[:1] if k < len(moment.names)]
        count = 0 if bad_K is None else int(bad_K.sum())
        word = "NaN" if math.isnan(_value(moment)) else "infinite"
        if record.bad_loss:
            metric, fix, what = "loss", _FIX_LOSS, f"The loss is {word} at step {moment.step_total}"
        elif record.bad_grads or count:
            metric, fix, what = (
                "grad_norm",
                _FIX_GRADS,
                f"Gradients are {word} at step {moment.step_total}, the loss is finite",
            )
        else:
            metric, fix, what = "parameters", _FIX_PARAMS, f"Parameters are non-finite at step {moment.step_total}"
        parts = [f"{what}."]
        if count:
            of = f" of {len(moment.names)}" if moment.names else ""
            parts.append(f"{count}{of} tensors have a non-finite gradient{f', the first is {bad[0]}' if bad else ''}.")
        if record.update_skipped:
            parts.append("The update was dropped.")
        elif record.bad_params and metric != "parameters":
            parts.append("Parameters are non-finite too.")
        return Finding(
            metric=metric,
            summary=" ".join([*parts, fix[0]]),
            value=_value(moment),
            module=bad[0].rpartition(".")[0] if bad else None,
            param=bad[0] if bad else None,
            fix=fix,
            incident_id=reading.incident_id,
        )

    def snapshot(self) -> Any:
        return {
            "bad": sorted(self._bad),
            "last_bad_step": list(self._last_bad_step.items()),
            "skips": list(self._skips.items()),
        }

    def restore(self, state: Any) -> None:
        self._bad = {int(r) for r in state["bad"]}
        self._last_bad_step = {int(r): int(s) for r, s in state["last_bad_step"]}
        self._skips = {int(r): int(n) for r, n in state["skips"]}

    def _incident(self, record: IncidentRecord) -> Reading | None:
        if record.step <= self._last_bad_step.get(record.rank, -1):
            return _of_incident(record.id, bad=False)  # fires already, however long the post-mortem took
        # The record of its step is still to come: it says what was bad, or that the user captured a good step.
        self._awaiting[record.rank] = record
        return None

    def _incident_of(self, moment: Moment) -> str | None:
        """The incident that was waiting for this step, if the step is bad."""
        waiting = self._awaiting.get(moment.rank)
        if waiting is None or waiting.step > moment.step:
            return None
        del self._awaiting[moment.rank]
        return waiting.id if moment.poisoned else None

    def _scaler_finding(self, moment: Moment, scale: float) -> Finding:
        skips = max(self._skips.values(), default=0)
        if skips > self._rule.max_scaler_skips:
            what = f"GradScaler has skipped {skips} steps in a row, up to step {moment.step_total}: nothing is learnt"
        else:
            what = f"The loss scale fell to {readable(scale)} at step {moment.step_total}: gradients keep overflowing"
        severity: Severity = "info" if self._rule.severity == "info" else "warning"
        return Finding(
            metric="loss_scale",
            summary=f"{what}. {_FIX_SCALER[0]}",
            value=None if math.isnan(scale) else scale,
            limit=self._rule.min_loss_scale,
            cause="overflow_low_precision",
            fix=_FIX_SCALER,
            severity=severity,
        )


def _of_incident(incident_id: str, *, bad: bool) -> Reading:
    """What an incident says by itself; not `bad`: it only brings its id to what fires already."""
    values = np.array([math.nan, math.nan])
    return Reading(_NAMES, np.array([bad, False]), np.array([bad, False]), values, values, incident_id=incident_id)


def _value(moment: Moment) -> float:
    """The non-finite value that was seen; the loss's before the gradients'."""
    for name in ("loss", "grad_norm"):
        value = moment.values.get(name, 0.0)
        if not math.isfinite(value):
            return value
    return math.nan

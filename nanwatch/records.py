"""The nouns that cross a boundary: between rooms, between the two processes, and into files.

Frozen dataclasses without behaviour, and the one way in which any of them becomes JSON.

Shapes: K tensors, S = len(STATISTICS) statistics, always in that order: `stats_KS`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATISTICS = ("l2", "min", "max", "sum", "zeros", "nan", "pos_inf", "neg_inf")
"""Columns of `stats_KS`. The first four describe the finite elements only; the last four are counts of elements.

A NaN in column `l2` means that the tensor had no gradient in this step; a NaN in a count means that it was not
counted (counts are exact whenever something is bad, else they are sampled).
"""

STATUSES = ("ok", "alerting", "incident", "stopped", "crashed")
"""Values of the tag `nanwatch.status`, from harmless to grave."""

Severity = Literal["info", "warning", "critical"]
AlertState = Literal["pending", "firing", "recovering", "resolved"]
Phase = Literal["data", "forward", "loss", "backward", "optimizer", "params"]
Verdict = Literal["reproduced", "not_reproduced", "failed"]
Policy = Literal["record", "skip", "stop"]


def json_ready(value: Any) -> Any:
    """The value as what `json.dumps(allow_nan=False)` accepts: non-finite floats become strings.

    NaN -> "NaN", inf -> "Infinity", -inf -> "-Infinity"; dataclasses and tuples become dicts and lists.
    """
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: json_ready(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): json_ready(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_ready(v) for v in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    return repr(value)[:200]


def number(value: Any) -> float:
    """The float behind a JSON number or one of the three strings that stand for a non-finite one."""
    return float(value)


# --- telemetry road -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunRecord:
    """Who trains what, and how the agent shall treat it; also the content of `run.json`. First record of a rank."""

    name: str
    """Folder name of the run under `NANWATCH_DIR`."""
    rank: int
    world_size: int
    pid: int
    host: str
    time_unix_s: float
    models: tuple[dict[str, Any], ...]
    """One per watched model: name, type, parameters (count of elements), tensors (count)."""
    versions: dict[str, str]
    script: str
    """Path of the program, without its arguments."""
    settings: dict[str, Any]
    """`Settings.for_agent()`: JSON-ready, without secrets."""


@dataclass(frozen=True)
class NamesRecord:
    """The tensors that the rows of the following StepRecords stand for."""

    names_id: int
    names: tuple[str, ...]
    numels: tuple[int, ...]
    """Elements of each tensor."""
    blocks: tuple[str, ...]
    """The block each tensor belongs to, for the few keys that go to MLflow (e.g. `encoder.layers.3`)."""


@dataclass(frozen=True)
class StepRecord:
    """All that is known of one optimizer step. Floats are NaN where nothing was measured."""

    rank: int
    step: int
    """0-based, counted from attach."""
    step_total: int
    """`step` shifted by `start_step`: what MLflow shows."""
    micro_steps: int
    """Outermost backward calls in this step."""
    time_unix_s: float
    monotonic_s: float
    step_time_s: float
    loss: float
    """Mean over the micro steps, as given to backward, with GradScaler's factor taken out. May be non-finite."""
    loss_measured: bool
    lr: float
    loss_scale: float
    grad_norm_clipped: float
    """Global norm after the user's clipping; NaN when the user does not clip."""
    overhead: float
    """Share of the step's time spent in nanwatch's own probes."""
    bad_loss: bool
    bad_grads: bool
    bad_params: bool
    scaler_skipped: bool
    update_skipped: bool
    names_id: int
    stats_KS: NDArray[np.float32]
    """Gradient statistics before clipping, float32; K may be 0."""


@dataclass(frozen=True)
class LogRecord:
    """What the user said with `watch.log(...)`."""

    rank: int
    step: int
    step_total: int
    time_unix_s: float
    values: dict[str, float]


@dataclass(frozen=True)
class MlflowRunRecord:
    """The MLflow run that the user's own process has open, as found through `sys.modules`."""

    run_id: str
    tracking_uri: str
    experiment_id: str | None


@dataclass(frozen=True)
class IncidentRecord:
    """An incident's folder `incidents/<id>.tmp` is whole on the trainer's side; the agent finishes it."""

    id: str
    rank: int
    step: int
    step_total: int


@dataclass(frozen=True)
class IncidentFoldRecord:
    """The incident went on (`open`) or ended; `bad_steps` steps have been non-finite so far."""

    id: str
    rank: int
    step: int
    open: bool
    bad_steps: int


@dataclass(frozen=True)
class NoteRecord:
    """A count for the ledger, or a sentence for the log, from the trainer."""

    rank: int
    reason: str
    count: int
    text: str


@dataclass(frozen=True)
class EndRecord:
    """The trainer's farewell. Absent when it was killed."""

    rank: int
    reason: Literal["finished", "exception", "stopped", "detached", "signal"]
    detail: str
    time_unix_s: float


@dataclass(frozen=True)
class Tick:
    """Time, as a record: rules know no clock. Made by the agent."""

    monotonic_s: float
    trainer_alive: bool


@dataclass(frozen=True)
class VitalsRecord:
    """What psutil says of the trainer and the host. Made by the agent; unknown values are absent."""

    time_unix_s: float
    values: dict[str, float]
    """Key without prefix (`trainer_rss_mb`, `host_memory_percent`, ...) -> value."""


Record = (
    RunRecord
    | NamesRecord
    | StepRecord
    | LogRecord
    | MlflowRunRecord
    | IncidentRecord
    | IncidentFoldRecord
    | NoteRecord
    | EndRecord
    | Tick
    | VitalsRecord
)


@dataclass(frozen=True)
class Alert:
    """One transition of one alert rule's instance; a line of `alerts.jsonl` is this with schema and time in front."""

    rule: str
    type: str
    state: AlertState
    severity: Severity
    id: str
    """The same from pending to resolved: fingerprint and the step at which it began."""
    fingerprint: str
    """Hash of rule and instance; never of step or value."""
    metric: str
    step: int
    rank: int
    summary: str
    value: float | None = None
    limit: float | None = None
    module: str | None = None
    param: str | None = None
    cause: str | None = None
    fix: tuple[str, ...] = ()
    incident_id: str | None = None
    step_total: int | None = None


# --- incident road --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """Where the tripwire saw the non-finite value."""

    where: Literal["loss", "grad", "parameter", "output", "none"]
    value: Literal["nan", "inf", "none"]
    names: tuple[str, ...] = ()
    count: int = 0
    """Tensors that were bad."""


@dataclass(frozen=True)
class TensorSummary:
    """A tensor that went into (or came out of) an operation. min and max are over the finite elements."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    min: float | None
    max: float | None
    nonfinite: int


@dataclass(frozen=True)
class Frame:
    """One line of a Python stack; in JSON `[file, line, function]`."""

    file: str
    line: int
    function: str


@dataclass(frozen=True)
class PathNode:
    """One operation on the way from the origin to the loss or the first bad gradient."""

    op: str
    module: str | None
    file: str | None
    line: int | None
    value: str


@dataclass(frozen=True)
class Origin:
    """The operation that made a non-finite value from finite inputs, or the data or parameter that brought it in."""

    phase: Phase
    op: str | None = None
    value: str = "nan"
    module: str | None = None
    module_type: str | None = None
    param: str | None = None
    file: str | None = None
    line: int | None = None
    function: str | None = None
    code: str | None = None
    stack: tuple[Frame, ...] = ()
    inputs: tuple[TensorSummary, ...] = ()
    output: TensorSummary | None = None
    batch_rows: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cause:
    """The named reason behind an origin."""

    label: str
    confidence: Literal["certain", "likely", "possible"]
    why: tuple[str, ...] = ()
    fix: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """The step run again with one thing changed."""

    name: str
    finite: bool
    says: str


@dataclass(frozen=True)
class Replay:
    """How the step behaved when it was run again."""

    verdict: Verdict
    attempts: int
    bitwise: bool
    seconds: float
    error: str | None = None
    experiments: tuple[Experiment, ...] = ()


@dataclass(frozen=True)
class Incident:
    """The facts of `incident.json`, schema `nanwatch.incident/1`."""

    id: str
    kind: Literal["nonfinite", "capture"]
    time: str
    rank: int
    world_size: int
    step: int
    step_total: int
    micro_step: int
    action: Policy
    seen: Seen
    origin: Origin | None
    path: tuple[PathNode, ...]
    cause: Cause
    replay: Replay
    amp: dict[str, Any] = field(default_factory=dict)
    mlflow: dict[str, Any] = field(default_factory=dict)
    schema: str = "nanwatch.incident/1"
    reason: str | None = None
    """What the user said with `watch.capture(reason)`."""
    scope: tuple[str, ...] = ()
    """Plain sentences on what this incident cannot say, and why."""

    def to_json(self) -> dict[str, Any]:
        """`incident.json` as CONTRACTS wants it: schema first, frames as `[file, line, function]`."""
        out: dict[str, Any] = {"schema": self.schema}
        out.update(json_ready(self))
        if self.origin is not None:
            out["origin"]["stack"] = [[f.file, f.line, f.function] for f in self.origin.stack]
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Incident:
        """The incident behind an `incident.json`; unknown fields are ignored, so that older readers read newer files."""
        origin = data.get("origin")
        return cls(
            **{k: v for k, v in _known(cls, data).items() if k not in _NESTED},
            seen=Seen(**_tupled(_known(Seen, data["seen"]), "names")),
            origin=None if origin is None else _origin(origin),
            path=tuple(PathNode(**_known(PathNode, p)) for p in data["path"]),
            cause=Cause(**_tupled(_known(Cause, data["cause"]), "why", "fix")),
            replay=_replay(data["replay"]),
            scope=tuple(data.get("scope", ())),
        )


_NESTED = {"seen", "origin", "path", "cause", "replay", "scope"}


def _known(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {k: v for k, v in data.items() if k in names}


def _tupled(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: tuple(v) if k in keys and isinstance(v, Sequence) else v for k, v in data.items()}


def _tensor(data: Mapping[str, Any]) -> TensorSummary:
    known = _tupled(_known(TensorSummary, data), "shape")
    for key in ("min", "max"):
        known[key] = None if known.get(key) is None else number(known[key])
    return TensorSummary(**known)


def _origin(data: Mapping[str, Any]) -> Origin:
    known = _tupled(_known(Origin, data), "batch_rows")
    known["stack"] = tuple(Frame(str(f[0]), int(f[1]), str(f[2])) for f in data.get("stack", ()))
    known["inputs"] = tuple(_tensor(t) for t in data.get("inputs", ()))
    known["output"] = None if data.get("output") is None else _tensor(data["output"])
    return Origin(**known)


def _replay(data: Mapping[str, Any]) -> Replay:
    known = _known(Replay, data)
    known["experiments"] = tuple(Experiment(**_known(Experiment, e)) for e in data.get("experiments", ()))
    return Replay(**known)

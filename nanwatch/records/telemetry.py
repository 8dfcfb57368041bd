"""What travels on the telemetry road: records of a run and its steps, and the alerts made of them.

Shapes: K tensors, S = len(STATISTICS) statistics, always in that order: `stats_KS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STATISTICS = ("l2", "min", "max", "sum", "zeros", "nan", "pos_inf", "neg_inf")
"""Columns of `stats_KS`. The first four describe the finite elements only; the last four are counts of elements.

A NaN in column `l2` means that the tensor had no gradient in this step; a NaN in a count means that it was not
counted (counts are exact whenever something is bad, else they are sampled).
"""

Severity = Literal["info", "warning", "critical"]
AlertState = Literal["pending", "firing", "recovering", "resolved"]


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
    """Unique over the ranks of a run."""
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

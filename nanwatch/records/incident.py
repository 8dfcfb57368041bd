"""What travels on the incident road: the facts of `incident.json`, schema `nanwatch.incident/1`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nanwatch.records.encoding import json_ready, number

Phase = Literal["data", "forward", "loss", "backward", "optimizer", "params"]
Verdict = Literal["reproduced", "not_reproduced", "failed"]
Policy = Literal["record", "skip", "stop"]


@dataclass(frozen=True)
class Seen:
    """Where the tripwire saw the non-finite value."""

    where: Literal["loss", "grad", "parameter", "output", "none"]
    value: Literal["nan", "inf", "none"]
    names: tuple[str, ...] = ()
    count: int = 0
    """Tensors that were bad."""
    backward: bool = True
    """False: a loss that the program called no backward on."""


@dataclass(frozen=True)
class TensorSummary:
    """A tensor that went into (or came out of) an operation. min and max are over the finite elements."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    min: float | None
    max: float | None
    nonfinite: int
    position: tuple[int, ...] | None = None
    """Index of the element that stands at (or went into) the first bad element of the result; None where it is not one
    element, as in a matrix product."""
    value: float | None = None
    """That element."""


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
    batch_features: tuple[int, ...] = ()
    """Phase `data`: the columns (last dimension) of the leaf that are not finite, where they are few."""


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
    finite: bool | None
    """Whether what was bad is finite then; None where nothing was run, only measured."""
    says: str

    @property
    def outcome(self) -> str:
        """In words for the reader."""
        return "measured" if self.finite is None else "finite" if self.finite else "still not finite"


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
    """What the user said with `watch.capture(reason)`; for `seen.where` output the name of the exception."""
    scope: tuple[str, ...] = ()
    """Plain sentences on what this incident cannot say, and why."""
    loss: float | None = None
    """The loss as the training computed it, every bit of it, without GradScaler's factor; None if it is not finite."""
    sample_ids: tuple[int | str, ...] = ()
    """Ids of the samples in the batch, row by row; empty where they are not known."""

    def to_json(self) -> dict[str, Any]:
        """The content of `incident.json`: schema first, frames as `[file, line, function]`."""
        out: dict[str, Any] = {"schema": self.schema}
        out.update(json_ready(self))
        if self.origin is not None:
            out["origin"]["stack"] = [[f.file, f.line, f.function] for f in self.origin.stack]
        return out

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Incident:
        """The incident behind an `incident.json`; unknown fields are ignored, so that older readers read newer ones."""
        origin = data.get("origin")
        return cls(
            **{k: v for k, v in _known(cls, data).items() if k not in _NESTED},
            seen=Seen(**_tupled(_known(Seen, data["seen"]), "names")),
            origin=None if origin is None else _origin(origin),
            path=tuple(PathNode(**_known(PathNode, p)) for p in data["path"]),
            cause=Cause(**_tupled(_known(Cause, data["cause"]), "why", "fix")),
            replay=_replay(data["replay"]),
            scope=tuple(data.get("scope", ())),
            sample_ids=tuple(data.get("sample_ids", ())),
        )


_NESTED = {"seen", "origin", "path", "cause", "replay", "scope", "sample_ids"}


def _known(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {k: v for k, v in data.items() if k in names}


def _tupled(data: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: tuple(v) if k in keys and isinstance(v, Sequence) else v for k, v in data.items()}


def _tensor(data: Mapping[str, Any]) -> TensorSummary:
    known = _tupled(_known(TensorSummary, data), "shape", "position")
    for key in ("min", "max", "value"):
        known[key] = None if known.get(key) is None else number(known[key])
    return TensorSummary(**known)


def _origin(data: Mapping[str, Any]) -> Origin:
    known = _tupled(_known(Origin, data), "batch_rows", "batch_features")
    known["stack"] = tuple(Frame(str(f[0]), int(f[1]), str(f[2])) for f in data.get("stack", ()))
    known["inputs"] = tuple(_tensor(t) for t in data.get("inputs", ()))
    known["output"] = None if data.get("output") is None else _tensor(data["output"])
    return Origin(**known)


def _replay(data: Mapping[str, Any]) -> Replay:
    known = _known(Replay, data)
    known["experiments"] = tuple(Experiment(**_known(Experiment, e)) for e in data.get("experiments", ()))
    return Replay(**known)

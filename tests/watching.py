"""The probes and the post-mortem of one process without an agent: what the in-step tests observe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from nanwatch.postmortem.evidence import Privacy
from nanwatch.postmortem.examine import Examiner
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.trip import Trip
from nanwatch.records import Incident, NamesRecord, StepRecord


@dataclass
class Watching:
    """Everything that the probes said."""

    probes: Probes
    records: list = field(default_factory=list)
    trips: list[Trip] = field(default_factory=list)
    incidents: list[Incident] = field(default_factory=list)
    folds: list = field(default_factory=list)
    skipped: list = field(default_factory=list)
    """Rows of each batch that the program has left aside."""

    @property
    def steps(self) -> list[StepRecord]:
        return [r for r in self.records if isinstance(r, StepRecord)]

    @property
    def names(self) -> NamesRecord:
        return [r for r in self.records if isinstance(r, NamesRecord)][-1]

    @property
    def incident(self) -> Incident:
        assert len(self.incidents) == 1, [i.seen for i in self.incidents]
        return self.incidents[0]


@contextmanager
def watching(
    models: nn.Module | dict[str, nn.Module],
    folder: Path,
    *,
    policy: str = "record",
    start_step: int = 0,
    shadow_bytes: int | None = None,
    **privacy: object,
) -> Iterator[Watching]:
    def fault(probe: str, error: BaseException) -> None:
        raise AssertionError(f"{probe} failed") from error

    def on_trip(trip: Trip) -> None:
        out.trips.append(trip)
        if trip.kind == "skipped":
            out.skipped.append(examiner.rows_of(trip)[0])
            return
        incident = examiner.examine(trip)
        if incident is not None:
            out.incidents.append(incident)

    def is_overflow_real(trip: Trip) -> bool:
        return examiner.overflow_is_real(trip)

    records, folds = [], []
    probes = Probes(
        policy=policy, rank=0, start_step=start_step, emit=records.append, on_trip=on_trip,
        is_overflow_real=is_overflow_real, on_fold=lambda *fold: folds.append(fold), report=fault, strict=True,
    )  # fmt: skip
    out = Watching(probes, records=records, folds=folds)
    settings = {"capture_batch": "full", "capture_parameters": "full", "max_batch_mib": 64, "max_state_mib": 64,
                "redact": None} | privacy  # fmt: skip
    examiner = Examiner(
        probes, folder / "incidents", rank=0, world_size=1, start_step=start_step, policy=policy,
        privacy=Privacy(**settings), mlflow_run_id=lambda: None,
        new_id=lambda step: f"step-{step}-{len(out.incidents)}",
    )  # fmt: skip
    named = models if isinstance(models, dict) else {"": models}
    for name, model in named.items():
        probes.add(name, model)
    examiner.remember_state()
    probes.keep_shadow(shadow_bytes)
    try:
        yield out
    except BaseException as e:
        probes.tripwire.ended(e)
        raise
    else:
        if probes.tripwire.unfinished.last_stack():
            probes.tripwire.ended(None)
    finally:
        for name in list(probes.names):
            probes.remove(name)

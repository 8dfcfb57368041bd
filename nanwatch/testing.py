"""Public doubles and checks for people who extend nanwatch.

`check_sink` and `check_rule` are what nanwatch's own sinks and rules are held to; call them from a test of yours.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nanwatch.records import (
    STATISTICS,
    Alert,
    Cause,
    EndRecord,
    Incident,
    LogRecord,
    NamesRecord,
    NoteRecord,
    Record,
    Replay,
    RunRecord,
    Seen,
    StepRecord,
    Tick,
    VitalsRecord,
    json_ready,
)
from nanwatch.rules.engine import RuleEngine
from nanwatch.rules.rule import Rule
from nanwatch.sinks.sink import FinishedIncident, RunEnd, Sink

__all__ = ["MemorySink", "check_rule", "check_sink", "example_alert", "example_incident", "example_step"]


class MemorySink:
    """A sink that keeps what it is given. `failures` are raised by `ship`, one a call, before it ships."""

    name = "memory"

    def __init__(self, failures: Iterable[Exception] = ()) -> None:
        self.records: list[Record] = []
        self.alerts: list[Alert] = []
        self.incidents: list[FinishedIncident] = []
        self.shipped = 0
        self.end: RunEnd | None = None
        self._failures = list(failures)

    def observe(self, record: Record) -> None:
        self.records.append(record)

    def alert(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def incident(self, finished: FinishedIncident) -> None:
        self.incidents.append(finished)

    def ship(self, now_unix_s: float, *, final: bool) -> bool:  # noqa: ARG002  # the protocol's
        if self._failures:
            raise self._failures.pop(0)
        self.shipped = len(self.records) + len(self.alerts) + len(self.incidents)
        return True

    def close(self, end: RunEnd) -> None:
        self.end = end

    def state(self) -> dict[str, Any]:
        return {"shipped": self.shipped, "closed": self.end is not None}


def example_step(step: int = 0, loss: float = 0.5, *, tensors: int = 2, bad: bool = False, rank: int = 0) -> StepRecord:
    """A StepRecord of a small model; with `bad`, the first tensor's gradient has three NaN."""
    stats_KS = np.tile(np.array([1, -1, 1, 0, 0, 0, 0, 0], np.float32), (tensors, 1))
    if bad and tensors:
        stats_KS[0, STATISTICS.index("nan")] = 3
    return StepRecord(
        rank=rank, step=step, step_total=step, micro_steps=1, time_unix_s=1_700_000_000.0 + step,
        monotonic_s=100.0 + step, step_time_s=1.0, loss=loss, loss_measured=True, lr=1e-3, loss_scale=1.0,
        grad_norm_clipped=math.nan, overhead=0.001, bad_loss=not math.isfinite(loss), bad_grads=bad, bad_params=False,
        scaler_skipped=False, update_skipped=False, names_id=1, stats_KS=stats_KS,
    )  # fmt: skip


def example_alert(step: int = 3, state: str = "firing") -> Alert:
    """An alert as the built-in rules make them."""
    facts: dict[str, Any] = {"state": state, "value": math.inf, "limit": 100.0, "fix": ("Lower the learning rate.",)}
    return Alert(
        rule="exploding-gradient", type="threshold", severity="warning", id="f-3", fingerprint="f", metric="grad_norm",
        step=step, rank=0, summary="grad_norm is above 100", module="head", param="head.weight", **facts,
    )  # fmt: skip


def example_incident(folder: Path, incident_id: str = "s3-r0-example") -> FinishedIncident:
    """An incident with a small bundle, whose `manifest.json` is there, below `folder`."""
    incident = Incident(
        id=incident_id, kind="nonfinite", time="2026-01-02T03:04:05.678Z", rank=0, world_size=1, step=3, step_total=3,
        micro_step=0, action="record", seen=Seen("loss", "nan", ("loss",), 1), origin=None, path=(),
        cause=Cause("unknown", "possible"), replay=Replay("failed", 1, bitwise=False, seconds=0.1),
    )  # fmt: skip
    bundle = folder / incident_id
    bundle.mkdir(parents=True)
    texts = {"incident.json": json.dumps(incident.to_json()), "incident.md": "# NaN\n", "report.html": "<p>NaN</p>"}
    for name, text in texts.items():
        (bundle / name).write_text(text)
    members = {name: {"bytes": len(text)} for name, text in texts.items()}
    (bundle / "manifest.json").write_text(json.dumps({"schema": "nanwatch.manifest/1", "members": members}))
    return FinishedIncident(incident, bundle)


def check_sink(make: Callable[[], Sink]) -> None:
    """Assert that a sink keeps to the protocol: `make` gives a fresh one whose other side accepts everything.

    Every kind of record is taken in, also strange ones, and things come before the first record or twice; what was
    taken in can be shipped, and shipped again at the end; `state` can go into a JSON file at any time.
    Raises: AssertionError that says what was broken.
    """
    sink = make()
    _require(isinstance(sink, Sink), f"{type(sink).__name__} lacks a method or the name of the Sink protocol")
    _require(bool(sink.name), "a sink needs a name")
    _require(sink.name.isidentifier(), f"the name {sink.name!r} must be an identifier: it becomes a key in ledger.json")
    _state_is_json(sink)
    with tempfile.TemporaryDirectory() as folder:
        incident = example_incident(Path(folder))
        for record in _records():
            _must_not_raise(sink.observe, record)
        for alert in (example_alert(), example_alert(), example_alert(9, "resolved")):
            _must_not_raise(sink.alert, alert)
        _must_not_raise(sink.incident, incident)
        _must_not_raise(sink.incident, incident)
        _state_is_json(sink)
        for final in (False, True, True):
            shipped = sink.ship(1_700_000_100.0, final=final)
            _require(isinstance(shipped, bool), f"ship() must say whether nothing is left; it said {shipped!r}")
        _require(shipped, "after ship(final=True) something is left although the other side accepts everything")
        _state_is_json(sink)
        sink.close(RunEnd("finished", "", "FINISHED"))
    _state_is_json(sink)
    empty = make()
    _require(empty.ship(1_700_000_100.0, final=True), "a sink that was given nothing has something left")


def check_rule(rule: Rule) -> None:
    """Assert that an alert rule keeps to what the engine needs.

    It can be dumped and made again; it never raises on NaN, on infinities, on steps without tensors or without names;
    the same records give the same alerts; its state survives a restart; each instance goes through its states in order.
    Raises: AssertionError that says what was broken.
    """
    again = type(rule).model_validate(rule.model_dump(mode="json"))
    _require(again == rule, "model_dump(mode='json') and model_validate do not give the rule back")
    records = _records()
    alerts = _alerts(rule, records)
    _require(
        _plain(alerts) == _plain(_alerts(again, records)),
        "the same records gave other alerts the second time: a rule must be pure",
    )
    order = {
        "pending": {"firing", "resolved"},
        "firing": {"recovering", "resolved"},
        "recovering": {"firing", "resolved"},
    }
    last: dict[str, str] = {}
    for alert in alerts:
        before = last.get(alert.id)
        _require(
            before is None or alert.state in order.get(before, set()),
            f"alert {alert.id} went from {before} to {alert.state}",
        )
        _require(bool(alert.summary), f"alert {alert.id} has no summary")
        json.dumps(json_ready(alert), allow_nan=False)
        last[alert.id] = alert.state
    half = len(records) // 2
    first, second = RuleEngine([rule], strict=True), RuleEngine([rule], strict=True)
    for record in records[:half]:
        first.observe(record)
    second.restore(json.loads(json.dumps(first.snapshot())))
    for record in records[:half]:
        if isinstance(record, NamesRecord):
            second.observe(record)
    for record in records[half:]:
        _require(
            _plain(first.observe(record)) == _plain(second.observe(record)),
            f"after a restart the rule differs on {record!r:.200}",
        )


def _alerts(rule: Rule, records: list[Record]) -> list[Alert]:
    engine = RuleEngine([rule], strict=True)
    return [alert for record in records for alert in engine.observe(record)]


def _plain(alerts: list[Alert]) -> Any:
    """Comparable: two NaN are the same value here."""
    return json_ready(alerts)


def _records() -> list[Record]:
    """A run that starts well, goes bad in every way, and gets well again."""
    run = RunRecord(
        "example", 0, 1, 1, "host", 1_700_000_000.0, ({"name": "", "type": "Net"},), {"torch": "2"}, "train.py", {}
    )
    names = NamesRecord(1, ("body.weight", "head.weight"), (8, 4), ("body", "head"))
    early: list[Record] = [example_step(0, tensors=0), run, names, Tick(100.0, trainer_alive=True)]
    good: list[Record] = [example_step(n, 1.0 / (n + 1)) for n in range(1, 80)]
    bad: list[Record] = [
        example_step(80 + i, loss, bad=True) for i, loss in enumerate((math.nan, math.inf, -math.inf, 1e38, -1e300))
    ]
    strange: list[Record] = [
        replace(example_step(85), loss_measured=False, lr=math.nan, step_time_s=math.nan, loss_scale=math.inf),
        replace(example_step(86), stats_KS=np.full((2, 8), math.nan, np.float32)),
        replace(
            example_step(87), stats_KS=np.array([[math.inf, -math.inf, math.inf, math.inf, 0, 0, 0, 0]] * 2, np.float32)
        ),
        replace(example_step(88), names_id=99),
        replace(example_step(88, tensors=5), scaler_skipped=True, update_skipped=True, bad_grads=True),
        LogRecord(0, 88, 88, 1_700_000_088.0, {"val_loss": math.nan, "ü": 1.0, "a//b": math.inf}),
        VitalsRecord(1_700_000_088.0, {}),
        VitalsRecord(1_700_000_089.0, {"trainer_rss_mb": 100.0, "host_memory_percent": math.nan}),
        NoteRecord(0, "dropped_example", 2, "an example"),
        Tick(200.0, trainer_alive=True),
    ]
    well: list[Record] = [example_step(n, 0.01) for n in range(89, 200)]
    end: list[Record] = [
        Tick(1e9, trainer_alive=False),
        EndRecord(0, "finished", "", 1_700_000_200.0),
        Tick(1e9 + 1, trainer_alive=False),
    ]
    return [*early, *good, *bad, *strange, *well, *end]


def _require(holds: bool, otherwise: str) -> None:
    # Not the assert statement: these checks are meant to hold under python -O too.
    if not holds:
        raise AssertionError(otherwise)


def _must_not_raise(take_in: Callable[[Any], None], item: Any) -> None:
    try:
        take_in(item)
    except Exception as e:
        raise AssertionError(f"{take_in.__qualname__} raised on {item!r:.200}: {type(e).__name__}: {e}") from e


def _state_is_json(sink: Sink) -> None:
    state = sink.state()
    _require(isinstance(state, dict), f"state() must be a dict, not {type(state).__name__}")
    try:
        json.dumps(state, allow_nan=False)
    except (TypeError, ValueError) as e:
        raise AssertionError(f"state() cannot go into ledger.json: {e}") from e

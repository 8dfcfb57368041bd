"""The loop with a real spool, real files and the real rules; sinks and the report are doubles."""

import json

import pytest

from nanwatch.agent import loop as module
from nanwatch.agent.incident import IncidentFinisher
from nanwatch.agent.ledger import Ledger
from nanwatch.agent.loop import Loop
from nanwatch.agent.timeline import Timeline
from nanwatch.bundle.upload import UploadPolicy
from nanwatch.records import EndRecord, Incident, IncidentRecord, NamesRecord, NoteRecord, StepRecord, Tick
from nanwatch.rules.defaults import default_rules
from nanwatch.rules.engine import RuleEngine
from nanwatch.sinks.jsonl import JsonlSink
from nanwatch.sinks.sink import FinishedIncident
from nanwatch.spool.writer import SpoolWriter
from nanwatch.testing import example_incident, example_step

NAMES = NamesRecord(1, ("a", "b"), (4, 2), ("a", "b"))


class Outlet(list):
    put = list.append


class Farewells:
    """Stands for the processes: this test has none."""

    def __init__(self):
        self.said = []

    def run(self, record):
        self.said.append(record)

    def farewell(self, record):
        self.said.append(record)


class Bench:
    def __init__(self, folder, rules=None, finish=None):
        self.dir = folder
        self.outlet = Outlet()
        self.timeline = Timeline(folder, history_steps=5)
        self.alerts = JsonlSink(folder / "alerts.jsonl", lambda: 0.0)
        self.ledger = Ledger(folder)
        self.farewells = Farewells()
        self.finisher = IncidentFinisher(
            folder, lambda step: self.timeline.history(5, until_step=step), UploadPolicy, finish or self.finish
        )
        self.acks_at_finish = []
        rules = rules or RuleEngine(default_rules(), strict=True)
        self.loop = Loop(
            folder, rules=rules, timeline=self.timeline, alerts=self.alerts, finisher=self.finisher,
            trainers=self.farewells, outlets=[self.outlet], ledger=self.ledger, clock=lambda: 0.0,
        )  # fmt: skip

    def finish(self, folder, history, upload):
        self.acks_at_finish.append(self.ack())
        (folder / "manifest.json").write_text("{}")
        return Incident.from_json(json.loads((folder / "incident.json").read_text()))

    def writer(self, rank=0, **changes):
        writer = SpoolWriter(str(self.dir / "spool" / f"r{rank}"), print, **changes)
        writer.write(NAMES)
        return writer

    def ack(self):
        try:
            return json.loads((self.dir / "ack.json").read_text())["ranks"]
        except FileNotFoundError:
            return None

    def lines(self):
        return [json.loads(line) for line in (self.dir / "alerts.jsonl").read_text().splitlines()]


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


def test_a_pass_hands_on_and_acknowledges_what_is_there(bench):
    assert bench.loop.one_pass() == 0
    writer = bench.writer()
    writer.write(example_step(0))
    writer.write(EndRecord(0, "finished", "", 0.0))
    assert bench.loop.one_pass() == 3
    assert bench.ack() == {"0": list(writer.position)}
    assert [type(item).__name__ for item in bench.outlet] == ["NamesRecord", "StepRecord", "EndRecord"]
    assert bench.farewells.said == [EndRecord(0, "finished", "", 0.0)]
    assert bench.ledger.view().counts["seen.step"] == 1
    assert bench.loop.one_pass() == 0


def test_ranks_are_found_as_they_appear_and_read_in_batches(bench, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 10)
    one = bench.writer(0, segment_bytes=1000)
    for n in range(25):
        one.write(example_step(n))
    assert [bench.loop.one_pass() for _ in range(4)] == [10, 10, 6, 0]
    seven = bench.writer(7)
    (bench.dir / "spool" / "other").mkdir()
    bench.loop.one_pass()
    assert bench.ack() == {"0": list(one.position), "7": list(seven.position)}


def test_alerts_are_on_disk_before_the_acknowledgement(bench, monkeypatch):
    writer = bench.writer()
    writer.write(example_step(0, float("nan"), bad=True))
    seen = []
    real = module.write_json
    monkeypatch.setattr(module, "write_json", lambda path, content: (seen.append(bench.lines()), real(path, content)))
    bench.loop.one_pass()
    assert [a["rule"] for a in seen[0] if a["state"] == "firing"] == ["nonfinite"]
    assert bench.ledger.view().counts["sent.alert"] == len(bench.lines())
    assert any(getattr(item, "rule", None) == "nonfinite" for item in bench.outlet)


def test_an_incident_is_whole_before_the_acknowledgement_and_reaches_the_sinks(bench):
    writer = bench.writer()
    folder = example_incident(bench.dir / "incidents", "one").folder
    (folder / "manifest.json").rename(folder / "evidence.json")
    writer.write(IncidentRecord("one", 0, 3, 3))
    bench.loop.one_pass()
    assert bench.acks_at_finish == [None]
    assert bench.ack() == {"0": list(writer.position)}
    assert isinstance(bench.outlet[-1], FinishedIncident)


def test_a_bundle_that_cannot_be_finished_costs_only_itself(tmp_path):
    def broken(folder, history, upload):
        raise RuntimeError("a template is broken")

    bench = Bench(tmp_path, finish=broken)
    writer = bench.writer()
    folder = example_incident(tmp_path / "incidents", "one").folder
    (folder / "manifest.json").rename(folder / "evidence.json")
    for record in (IncidentRecord("one", 0, 3, 3), IncidentRecord("missing", 0, 3, 3), example_step(4)):
        writer.write(record)
    bench.loop.one_pass()
    assert bench.ledger.view().counts["failed.bundle"] == 2
    assert bench.ack() == {"0": list(writer.position)}
    assert isinstance(bench.outlet[-1], StepRecord)


def test_rules_that_fail_do_not_stop_the_rest(tmp_path):
    class Broken:
        def observe(self, record):
            raise ZeroDivisionError

    bench = Bench(tmp_path, rules=Broken())
    writer = bench.writer()
    writer.write(example_step(0))
    bench.loop.one_pass()
    assert bench.ledger.view().counts["failed.rules"] == 2
    assert bench.ack() == {"0": list(writer.position)}


def test_damage_and_the_trainer_s_own_losses_are_counted_and_told_to_the_sinks(bench):
    writer = bench.writer()
    writer.write(NoteRecord(0, "dropped_ring_full", 5, "too slow"))
    writer.write(NoteRecord(0, "unsupported_dtype", 2, "quantised"))
    with (bench.dir / "spool/r0/000001.seg").open("ab") as f:
        f.write(b"\0" * 100)
    bench.loop.one_pass()
    counts = bench.ledger.view().counts
    assert counts["dropped.ring_full"] == 5
    assert counts["dropped.spool_damaged"] == 1
    assert counts["seen.note_unsupported_dtype"] == 2
    assert [item.reason for item in bench.outlet if isinstance(item, NoteRecord)].count("dropped_spool_damaged") == 1


@pytest.mark.parametrize("what", ["alerts.jsonl", "ack.json"])
def test_a_full_disk_delays_the_acknowledgement_and_loses_no_alert(bench, monkeypatch, what):
    writer = bench.writer()
    writer.write(example_step(0, float("nan"), bad=True))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as m:
        if what == "alerts.jsonl":
            m.setattr(bench.alerts, "_append", full)
        else:
            m.setattr(module, "write_json", full)
        bench.loop.one_pass()
        assert bool(bench.lines()) == (what == "ack.json")
    assert bench.ack() is None
    bench.loop.one_pass()
    assert bench.lines()
    assert bench.ack() == {"0": list(writer.position)}


def test_a_tick_goes_to_the_rules_only(bench):
    bench.loop.feed(Tick(1.0, trainer_alive=True))
    assert bench.outlet == []

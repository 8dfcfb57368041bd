import json

from nanwatch.agent.ledger import Ledger
from nanwatch.sinks.sink import RunEnd


def test_counts_by_reason_and_the_state_of_each_sink(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.seen("step")
    ledger.seen("step", 4)
    ledger.dropped("spool_damaged", 2)
    ledger.failed("rules")
    ledger.sent("alert", 3)
    ledger.sent("alert", 3)
    ledger.write("2026-01-02T03:04:05.678Z", {"webhook": {"sent": 1}})
    content = json.loads((tmp_path / "ledger.json").read_text())
    assert content == {
        "schema": "nanwatch.ledger/1",
        "time": "2026-01-02T03:04:05.678Z",
        "counts": {"dropped.spool_damaged": 2, "failed.rules": 1, "seen.step": 5, "sent.alert": 3},
        "sinks": {"webhook": {"sent": 1}},
        "end": None,
    }
    assert ledger.view().counts == content["counts"]


def test_the_next_agent_knows_how_the_run_ended(tmp_path):
    ledger = Ledger(tmp_path)
    assert ledger.earlier_end() is None
    ledger.write("t", {})
    assert Ledger(tmp_path).earlier_end() is None
    ledger.end = RunEnd("killed", "killed by SIGKILL", "KILLED")
    ledger.write("t", {})
    assert Ledger(tmp_path).earlier_end() == ledger.end

"""Bundles on their way: begun by a trainer, finished by the agent, with the real report."""

import pyarrow.parquet as pq

from nanwatch.bundle.reader import Bundle

EVIDENCE = """
from nanwatch.bundle.writer import EvidenceWriter

def evidence(name, commit=True):
    facts = Incident(
        id=name, kind="nonfinite", time="2026-01-02T03:04:05.678Z", rank=0, world_size=1, step=60, step_total=60,
        micro_step=0, action="record", seen=Seen("loss", "nan", ("loss",), 1), origin=None, path=(),
        cause=Cause("unknown", "possible"), replay=Replay("failed", 1, bitwise=False, seconds=0.1))
    writer = EvidenceWriter(run_dir / "incidents", name)
    writer.json("incident.json", facts.to_json())
    writer.text("traceback.txt", "no traceback")
    if commit:
        writer.commit()
"""
GOES_BAD = (
    EVIDENCE
    + """
writer = begin()
for n in range(60):
    writer.write(step(n))
writer.write(step(60, float("nan"), bad=True))
"""
)


def test_a_bundle_is_whole_when_its_record_is_acknowledged(run):
    run.train(
        GOES_BAD
        + """
evidence("one")
writer.write(IncidentRecord("one", 0, 60, 60))
wait_ack(writer)
assert (run_dir / "incidents/one/manifest.json").exists()
assert (run_dir / "alerts.jsonl").read_text()
say("acknowledged")
"""
    )
    run.prepare({"history_steps": 50})
    run.start_agent()
    run.hear("acknowledged")
    run.agent_ends()
    bundle = Bundle.open(run.dir / "incidents/one")
    assert bundle.is_complete
    history = pq.read_table(bundle.path("history.parquet")).to_pandas()
    assert history.loc[history.tensor == "", "step"].tolist() == list(range(11, 61))
    assert "<html" in bundle.path("report.html").read_text()
    assert run.json("ledger.json")["counts"]["seen.bundle"] == 1


def test_bundles_whose_record_never_came_are_finished_and_a_torn_one_is_said(run):
    run.train(
        GOES_BAD
        + """
evidence("one")
evidence("two", commit=False)
wait_ack(writer)
say("acknowledged")
time.sleep(60)
"""
    )
    run.prepare()
    run.start_agent()
    run.hear("acknowledged")
    run.trainer.kill()
    run.agent_ends()
    assert Bundle.open(run.dir / "incidents/one").is_complete
    assert (run.dir / "incidents/two.tmp").is_dir()
    assert "incidents/two.tmp" in run.log()
    assert run.json("ledger.json")["counts"]["failed.torn_bundle"] == 1


def test_the_next_agent_finishes_what_one_that_was_killed_left(run):
    run.train(
        GOES_BAD
        + """
evidence("one")
writer.write(IncidentRecord("one", 0, 60, 60))
say("written")
sys.stdin.readline()
"""
    )
    run.prepare()
    run.hear("written")
    first = run.start_agent()
    first.kill()
    first.communicate()
    run.start_agent()
    run.until((run.dir / "incidents/one/manifest.json").exists)
    run.trainer.communicate("go\n", timeout=20)
    run.agent_ends()
    assert Bundle.open(run.dir / "incidents/one").is_complete

import json

import pytest

from nanwatch.records import Alert, Cause, Frame, Incident, Origin, Replay, RunRecord, Seen, TensorSummary
from nanwatch.sinks.notification import MAX_BODY_BYTES, alert_data, died_data, fitted, incident_data, links
from nanwatch.sinks.sink import RunEnd

RUN = RunRecord("20261123-abc123", 0, 1, 4242, "gpu-7", 1e9, (), {}, "/home/me/train.py", {})


def incident(**changes):
    origin = Origin(
        phase="forward",
        op="aten::log",
        value="inf",
        module="encoder.layers.3.attn",
        module_type="Attention",
        file="/home/me/train.py",
        line=41,
        function="forward",
        code="    x = torch.log(p)",
        stack=(Frame("/home/me/train.py", 41, "forward"),),
        inputs=(TensorSummary("self", (8, 16), "float32", 0.0, 0.7, 0),),
        batch_rows=(3,),
    )
    facts = {
        "id": "inc-1",
        "kind": "nonfinite",
        "time": "2026-11-23T19:01:02.345Z",
        "rank": 0,
        "world_size": 1,
        "step": 12,
        "step_total": 112,
        "micro_step": 0,
        "action": "record",
        "seen": Seen("loss", "nan"),
        "origin": origin,
        "path": (),
        "cause": Cause(
            "log_of_zero", "certain", ("the smallest input is exactly 0",), ("clamp the input: p.clamp_min(eps)",)
        ),
        "replay": Replay("reproduced", 2, True, 0.4),
    }
    return Incident(**(facts | changes))


def test_the_text_of_an_incident_is_enough_to_act_on():
    data = incident_data(RUN, incident(), None)
    for needed in (
        "20261123-abc123",
        "gpu-7",
        "step 112",
        "it became NaN",
        "aten::log",
        "encoder.layers.3.attn",
        "/home/me/train.py:41",
        "x = torch.log(p)",
        "log of zero: the smallest input is exactly 0",
        "Fix: clamp the input",
        "Rows of the batch: 3.",
        "Training goes on.",
    ):
        assert needed in data["text"]
    assert data["title"] == (
        "NaN at step 112: aten::log in encoder.layers.3.attn (Attention) at /home/me/train.py:41 (20261123-abc123)"
    )
    assert data["cause"] == "log_of_zero"
    assert data["origin"]["line"] == 41
    assert data["values"]["self_max"] == 0.7
    assert data["severity"] == "critical"


def test_an_incident_without_origin_still_says_what_is_known():
    cause = Cause("unknown", "possible", ("the step did not repeat",))
    data = incident_data(RUN, incident(origin=None, cause=cause, action="stop"), None)
    assert data["title"] == "NaN at step 112 (20261123-abc123)"
    assert "the step did not repeat" in data["text"]
    assert "Training was stopped." in data["text"]


def test_an_alert_is_its_summary_with_the_run_in_front():
    alert = Alert(
        rule="r", type="threshold", state="resolved", severity="warning", id="i", fingerprint="f", metric="loss",
        step=3, rank=1, summary="Over since step 3.", value=float("inf"), limit=2.0, module="a.b", param="a.b.weight",
    )  # fmt: skip
    data = alert_data(RUN, alert, None)
    assert data["title"] == "Over: r (loss) at step 3 (20261123-abc123)"
    assert data["text"] == "Run 20261123-abc123 on gpu-7 (rank 1).\nOver since step 3."
    assert data["values"] == {"value": "Infinity", "limit": 2.0}
    assert data["origin"] == {"module": "a.b", "param": "a.b.weight"}


def test_a_death_says_how_and_when():
    data = died_data(RUN, RunEnd("out_of_memory", "the cgroup's oom counter rose", "FAILED"), None)
    assert "process 4242" in data["text"]
    assert "before its first step: out of memory" in data["text"]
    assert "oom counter" in data["text"]


def test_links_need_the_ui_and_the_run():
    facts = {"run_id": "R", "experiment_id": "7"}
    assert links(None, facts, "inc-1") == {}
    assert links("http://h:5000", {"run_id": None}, "inc-1") == {}
    assert links("http://h:5000/", facts, "inc 1") == {
        "run": "http://h:5000/#/experiments/7/runs/R?workflowType=machine_learning",
        "report": "http://h:5000/#/experiments/7/runs/R/artifacts/nanwatch/incidents/inc%201/report.html"
        "?workflowType=machine_learning",
    }
    assert set(links("http://h", facts, None)) == {"run"}


@pytest.mark.parametrize("char", ["x", "漢", '"', "\udc80", "\x00"])
def test_a_body_is_always_small_enough(char):
    cause = Cause("unknown", "possible", tuple(char * 9000 for _ in range(9)), (char * 90_000,))
    body = fitted({"type": "t", "data": incident_data(RUN, incident(cause=cause), None)})
    assert len(json.dumps(body, ensure_ascii=False).encode(errors="replace")) <= MAX_BODY_BYTES
    assert body["data"]["origin"]["line"] == 41


def test_many_short_texts_do_not_hang_it():
    assert len(fitted({"data": ["ab"] * 20_000})["data"]) == 20_000

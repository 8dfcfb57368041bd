import base64
import datetime as dt
import json
import time

import numpy as np
import pytest
from standardwebhooks import Webhook

from nanwatch.errors import SetupError, SinkError
from nanwatch.records import Alert, Cause, Incident, IncidentRecord, Origin, Replay, RunRecord, Seen, StepRecord
from nanwatch.sinks.sink import FinishedIncident, RunEnd, Sink
from nanwatch.sinks.webhook import HOLD_S, INCIDENT_WAIT_S, WebhookSink

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
RUN = RunRecord("run-1", 0, 1, 4242, "gpu-7", 1e9, (), {}, "/home/me/train.py", {})
NAN = float("nan")


class Clock:
    def __init__(self):
        self.now = float(int(time.time()))

    def __call__(self):
        return self.now


def an_alert(**changes):
    facts = {
        "rule": "grad",
        "type": "threshold",
        "state": "firing",
        "severity": "warning",
        "id": "f-3",
        "fingerprint": "f",
        "metric": "grad_norm",
        "step": 3,
        "rank": 0,
        "summary": "It is high.",
    }
    return Alert(**(facts | changes))


def nonfinite(**changes):
    return an_alert(
        **{"rule": "nonfinite", "type": "nonfinite", "severity": "critical", "id": "n-3", "metric": "loss"} | changes
    )


def an_incident(tmp_path, name="inc-1", *, step=3, rank=0, kind="nonfinite"):
    origin = Origin("forward", "aten::log", "inf", "layer", file="/t.py", line=4, code="torch.log(p)")
    facts = Incident(
        name, kind, "t", rank, 1, step, step, 0, "record", Seen("loss", "nan"), origin, (),
        Cause("log_of_zero", "certain"), Replay("reproduced", 1, True, 0.1),
    )  # fmt: skip
    return FinishedIncident(facts, tmp_path)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(httpserver, tmp_path, clock):
    def build(**more):
        url = httpserver.url_for("/secretpath")
        facts = more.pop("facts", lambda: {"run_id": "R", "experiment_id": "7"})
        options = {"clock": clock, "uniform": lambda low, high: (low + high) / 2} | more
        return WebhookSink(url, SECRET, tmp_path / "outbox", RUN, "http://ui:5000", facts, **options)

    return build


@pytest.fixture
def came(httpserver):
    httpserver.expect_request("/secretpath", method="POST").respond_with_data("ok")

    def bodies():
        return [json.loads(request.data) for request, _ in httpserver.log]

    return bodies


def types(bodies):
    return [body["type"].removeprefix("nanwatch.") for body in bodies]


def test_it_is_a_sink(make):
    assert isinstance(make(), Sink)


def test_a_bad_url_or_secret_is_refused_at_once(tmp_path):
    with pytest.raises(SetupError, match="https://"):
        WebhookSink("nowhere", None, tmp_path, RUN, None, dict)
    with pytest.raises(SetupError, match="whsec_"):
        WebhookSink("https://h/x", "hello", tmp_path, RUN, None, dict)


def test_an_incident_is_signed_complete_and_linked(make, came, httpserver, tmp_path, clock):
    sink = make()
    sink.incident(an_incident(tmp_path))
    assert sink.ship(clock.now, final=False)
    (body,) = came()
    (request, _) = httpserver.log[0]
    assert Webhook(SECRET).verify(request.data, dict(request.headers)) == body
    assert body["type"] == "nanwatch.incident.created"
    assert dt.datetime.fromisoformat(body["timestamp"]).timestamp() == clock.now
    assert body["data"]["run"] == {
        "name": "run-1",
        "id": "R",
        "host": "gpu-7",
        "rank": 0,
        "script": "/home/me/train.py",
    }
    assert body["data"]["links"]["report"].endswith(
        "/nanwatch/incidents/inc-1/report.html?workflowType=machine_learning"
    )
    assert request.headers["content-type"] == "application/json"


def test_nothing_is_sent_while_things_are_taken_in(make, came, tmp_path):
    sink = make()
    sink.incident(an_incident(tmp_path))
    sink.alert(an_alert())
    assert came() == []
    assert sink.state()["queued"] == 2


def test_the_alert_of_an_incident_does_not_page_a_second_time(make, came, tmp_path, clock):
    sink = make()
    sink.alert(nonfinite())
    assert not sink.ship(clock.now, final=False)
    clock.now += HOLD_S - 1
    assert not sink.ship(clock.now, final=False)
    sink.incident(an_incident(tmp_path))
    clock.now += 1000
    assert sink.ship(clock.now, final=True)
    sink.alert(nonfinite(incident_id="inc-1"))
    sink.alert(nonfinite(state="resolved", step=40))
    assert sink.ship(clock.now, final=True)
    assert types(came()) == ["incident.created"]
    assert sink.state()["folded"] == 1


def test_nor_when_the_incident_comes_first(make, came, tmp_path, clock):
    sink = make()
    sink.incident(an_incident(tmp_path))
    sink.alert(nonfinite())
    clock.now += 1000
    assert sink.ship(clock.now, final=True)
    assert types(came()) == ["incident.created"]


def test_nor_after_a_restart_of_the_agent(make, came, tmp_path, clock):
    first = make()
    first.incident(an_incident(tmp_path))
    first.ship(clock.now, final=False)
    again = make()
    again.incident(an_incident(tmp_path))
    again.alert(nonfinite())
    assert again.ship(clock.now + 1000, final=True)
    assert types(came()) == ["incident.created"]


def test_without_an_incident_the_alert_goes_out(make, came, clock):
    sink = make()
    sink.alert(nonfinite())
    clock.now += HOLD_S
    assert sink.ship(clock.now, final=False)
    assert types(came()) == ["alert.firing"]


def test_it_waits_longer_once_an_incident_is_announced(make, came, clock):
    sink = make()
    sink.alert(nonfinite())
    sink.observe(IncidentRecord("inc-1", 0, 3, 3))
    clock.now += INCIDENT_WAIT_S - 1
    assert not sink.ship(clock.now, final=False)
    clock.now += 1
    assert sink.ship(clock.now, final=False)
    assert types(came()) == ["alert.firing"]


def test_at_the_end_nothing_waits(make, came, clock):
    sink = make()
    sink.alert(nonfinite())
    assert sink.ship(clock.now, final=True)
    assert types(came()) == ["alert.firing"]


def test_a_later_onset_is_a_notification_of_its_own(make, came, tmp_path, clock):
    sink = make()
    sink.incident(an_incident(tmp_path))
    sink.alert(nonfinite(id="n-90", step=90))
    sink.ship(clock.now, final=True)
    assert types(came()) == ["incident.created", "alert.firing"]


def test_all_ranks_of_a_bad_step_page_once(make, came, tmp_path, clock):
    sink = make()
    for rank in range(4):
        sink.incident(an_incident(tmp_path, f"inc-{rank}", rank=rank))
    assert sink.ship(clock.now, final=False)
    assert types(came()) == ["incident.created"]


def test_the_scalers_warning_waits_for_no_incident(make, came, clock):
    sink = make()
    sink.alert(nonfinite(metric="loss_scale", severity="warning"))
    assert sink.ship(clock.now, final=False)
    assert types(came()) == ["alert.firing"]


def test_info_pending_and_captures_are_not_sent(make, came, tmp_path, clock):
    sink = make()
    sink.alert(an_alert(severity="info"))
    sink.alert(an_alert(state="pending", id="p-1"))
    sink.alert(an_alert(state="recovering", id="p-2"))
    sink.alert(an_alert(state="resolved", id="p-3"))
    sink.incident(an_incident(tmp_path, kind="capture"))
    assert sink.ship(clock.now, final=True)
    assert came() == []


def test_they_are_sent_to_those_who_want_them(make, came, tmp_path, clock):
    sink = make(min_severity="info")
    sink.alert(an_alert(severity="info"))
    sink.incident(an_incident(tmp_path, kind="capture"))
    assert sink.ship(clock.now, final=True)
    assert types(came()) == ["alert.firing", "incident.created"]


def test_resolved_follows_firing_and_relapses_are_silent(make, came, clock):
    sink = make()
    for state in ("firing", "recovering", "firing", "resolved"):
        sink.alert(an_alert(state=state))
    assert sink.ship(clock.now, final=False)
    assert types(came()) == ["alert.firing", "alert.resolved"]


def test_resolved_never_overtakes_a_firing_that_is_late(make, httpserver, clock):
    httpserver.expect_ordered_request("/secretpath").respond_with_data("", status=503)
    httpserver.expect_ordered_request("/secretpath").respond_with_data("")
    httpserver.expect_ordered_request("/secretpath").respond_with_data("")
    sink = make()
    sink.alert(an_alert())
    sink.alert(an_alert(state="resolved"))
    with pytest.raises(SinkError):
        sink.ship(clock.now, final=False)
    assert not sink.ship(clock.now + 1, final=False)
    assert sink.ship(clock.now + 10, final=False)
    assert types([json.loads(r.data) for r, _ in httpserver.log]) == ["alert.firing", "alert.firing", "alert.resolved"]


def test_resolved_is_dropped_when_firing_never_arrived(make, httpserver, clock):
    httpserver.expect_request("/secretpath").respond_with_data("", status=400)
    sink = make()
    sink.alert(an_alert())
    sink.alert(an_alert(state="resolved"))
    assert sink.ship(clock.now, final=False)
    assert len(httpserver.log) == 1
    assert sink.state()["dropped"]["refused"] == 2


def test_a_stall_is_its_own_type(make, came, clock):
    sink = make()
    sink.alert(an_alert(type="heartbeat", rule="stalled"))
    sink.ship(clock.now, final=False)
    assert types(came()) == ["run.stalled"]


@pytest.mark.parametrize("reason", ["killed", "out_of_memory", "exception", "vanished"])
def test_a_bad_end_is_told(make, came, reason):
    sink = make()
    stats = np.zeros((0, 8), np.float32)
    step = StepRecord(0, 9, 109, 1, 1e9, 9.0, 0.1, 0.5, True, 0.1, NAN, NAN, 0.0, *[False] * 5, 1, stats)
    sink.observe(step)
    sink.close(RunEnd(reason, "said this", "FAILED"))
    (body,) = came()
    assert body["type"] == "nanwatch.run.died"
    assert "after step 109" in body["data"]["text"]
    assert "said this" in body["data"]["text"]
    assert body["data"]["values"]["last_loss"] == 0.5


@pytest.mark.parametrize("reason", ["finished", "detached", "stopped"])
def test_a_good_end_is_not(make, came, reason):
    make().close(RunEnd(reason, "", "FINISHED"))
    assert came() == []


def test_a_notification_goes_out_without_links_while_nothing_is_known_of_mlflow(make, came, tmp_path, clock):
    sink = make(facts=lambda: {"run_id": None, "experiment_id": None})
    sink.incident(an_incident(tmp_path))
    sink.ship(clock.now, final=False)
    assert came()[0]["data"]["links"] == {}

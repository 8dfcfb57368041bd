"""Servers that are down, busy, or will not have us: what the agent is told, and that nothing is lost."""

import json
import re
import socket

import pytest
from werkzeug import Response

from nanwatch.errors import SinkError

RUN = {"info": {"run_id": "RID", "run_uuid": "RID", "experiment_id": "0", "status": "RUNNING",
                "lifecycle_stage": "active", "artifact_uri": "mlflow-artifacts:/0/RID"}, "data": {}}  # fmt: skip


@pytest.fixture
def stub(httpserver):
    """A server that knows one run; each test decides how it takes a batch."""
    httpserver.expect_request("/api/2.0/mlflow/runs/get").respond_with_json({"run": RUN})
    httpserver.batches = []
    return httpserver


def on_batch(stub, *answers):
    """Answer batches of metrics with each of `answers` in turn, then take them."""
    left = list(answers)

    def answer(request):
        batch = json.loads(request.data)
        if "metrics" in batch and left:
            return left.pop(0)
        stub.batches.append(batch)
        return Response("{}", content_type="application/json")

    stub.expect_request("/api/2.0/mlflow/runs/log-batch").respond_with_handler(answer)


@pytest.fixture
def t(training, stub):
    t = training(run_id="RID", tracking_uri=stub.url_for("").rstrip("/"))
    t.steps(0, 10)
    return t


def keys_sent(stub):
    return [(m["key"], m["step"]) for batch in stub.batches for m in batch.get("metrics", ())]


def test_a_busy_server_is_given_the_time_that_it_asks_for(t, stub):
    stub.expect_request("/api/2.0/mlflow/experiments/get").respond_with_data("", 429, {"Retry-After": "17"})
    on_batch(stub, Response("slow down", 429, {"Retry-After": "17"}))
    with pytest.raises(SinkError) as refused:
        t.sink.ship(t.START + 11, final=False)
    assert (refused.value.permanent, refused.value.retry_after_s) == (False, 17.0)
    assert keys_sent(stub) == []
    t.ship(12)
    assert len(keys_sent(stub)) == len(set(keys_sent(stub))) > 100


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_a_server_in_trouble_is_tried_again_and_nothing_is_lost(t, stub, status):
    on_batch(stub, Response("<html>trouble</html>", status))
    with pytest.raises(SinkError) as refused:
        t.sink.ship(t.START + 11, final=False)
    assert not refused.value.permanent
    t.ship(12)
    assert ("nanwatch/loss", 9) in keys_sent(stub)
    assert t.sink.state()["dropped"] == {}


@pytest.mark.parametrize(
    ("status", "body", "advice"),
    [
        (401, "login", "MLFLOW_TRACKING_USERNAME"),
        (403, '{"error_code": "PERMISSION_DENIED", "message": "no"}', "may not write there"),
        (403, "Invalid Host header - possible DNS rebinding attack detected", "--allowed-hosts localhost:"),
        (404, "<html>nginx</html>", "is it the server"),
    ],
)
def test_a_refusal_says_what_to_do(t, stub, status, body, advice):
    on_batch(stub, Response(body, status))
    with pytest.raises(SinkError, match=advice) as refused:
        t.sink.ship(t.START + 11, final=False)
    assert refused.value.permanent


def test_a_server_that_is_not_there_is_tried_again(training):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    t = training(run_id="RID", tracking_uri=f"http://me:secret@127.0.0.1:{port}")
    t.steps(0, 10)
    with pytest.raises(SinkError) as refused:
        t.sink.ship(t.START + 11, final=False)
    assert not refused.value.permanent
    assert "secret" not in str(refused.value)
    assert t.sink.state()["queued"] > 100


def test_one_poisoned_point_is_found_among_many(t, stub):
    def answer(request):
        batch = json.loads(request.data)
        if any(m["step"] == 7 and m["key"] == "nanwatch/lr" for m in batch.get("metrics", ())):
            return Response('{"error_code": "INVALID_PARAMETER_VALUE", "message": "poison"}', 400)
        stub.batches.append(batch)
        return Response("{}", content_type="application/json")

    stub.expect_request("/api/2.0/mlflow/runs/log-batch").respond_with_handler(answer)
    queued = t.sink.state()["queued"]
    t.ship()
    assert len(keys_sent(stub)) == queued - 1
    assert ("nanwatch/lr", 7) not in keys_sent(stub)
    assert t.sink.state()["dropped"] == {"metric_refused": 1}


def test_a_server_that_refuses_every_point_is_not_taken_for_a_success(t, stub):
    def answer(request):
        if "metrics" in json.loads(request.data):
            return Response('{"error_code": "INVALID_PARAMETER_VALUE", "message": "no"}', 400)
        return Response("{}", content_type="application/json")

    stub.expect_request("/api/2.0/mlflow/runs/log-batch").respond_with_handler(answer)
    with pytest.raises(SinkError) as refused:
        t.sink.ship(t.START + 11, final=False)
    assert refused.value.permanent
    assert t.sink.state()["sent"]["metrics"] == 0


def artifact_store(stub, status):
    on_batch(stub)
    stub.expect_request("/api/2.0/mlflow/runs/set-tag").respond_with_json({})
    stub.expect_request("/api/2.0/mlflow/metrics/get-history").respond_with_json({})
    anywhere = re.compile("/api/2.0/mlflow-artifacts/.*")
    stub.expect_request(anywhere, method="PUT").respond_with_data("not here", status)


def test_a_store_that_fails_for_files_does_not_cost_the_metrics(t, stub):
    artifact_store(stub, 500)
    t.incident(step=3)
    with pytest.raises(SinkError) as refused:
        t.sink.ship(t.START + 11, final=False)
    assert not refused.value.permanent
    assert ("nanwatch/loss", 9) in keys_sent(stub)


@pytest.mark.parametrize("status", [403, 413])
def test_a_store_that_takes_no_files_does_not_cost_the_metrics(t, stub, status):
    artifact_store(stub, status)
    t.incident(step=3)
    t.ship()
    assert ("nanwatch/loss", 9) in keys_sent(stub)
    state = t.sink.state()
    assert state["dropped"]["artifact_refused"] > 0
    assert "refused by the server" in state["withheld"]["inc-1"].values()

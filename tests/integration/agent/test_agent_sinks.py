"""The agent with real receivers: a webhook endpoint, MLflow's own store, and a server that never answers."""

import json
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from standardwebhooks.webhooks import Webhook

SECRET = "whsec_" + "bmFud2F0Y2gtdGVzdC1zZWNyZXQtMTIzNDU2"
GOES_BAD = """
    writer = begin()
    for n in range(60):
        writer.write(step(n))
    writer.write(step(60, float("nan"), bad=True))
    wait_ack(writer)
    say("acknowledged")
    time.sleep(60)
"""


def modules(run) -> set[str]:
    """What a whole life of the agent has loaded, for a trainer that is gone already."""
    program = f"""
        import sys
        from nanwatch.agent.__main__ import main
        code = main([{str(run.dir)!r}, "--pid", "{run.trainer.pid}", "--start-time", "1.0"])
        print(code, *sys.modules)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], env=run.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    code, *names = done.stdout.splitlines()[-1].split()
    assert code == "0", run.log()
    return set(names)


def test_torch_is_never_loaded_and_mlflow_only_where_it_is_used(run):
    run.train(GOES_BAD.replace("wait_ack(writer)", "").replace("time.sleep(60)", ""))
    run.hear("acknowledged")
    run.trainer.wait()
    run.prepare()
    loaded = modules(run)
    assert run.alerts()
    assert not {"torch", "mlflow", "requests"} & loaded
    run.prepare({"mlflow": True, "tracking_uri": f"sqlite:///{run.dir}/mlflow.db"})
    run.environ.pop("PYTHONWARNINGS")
    loaded = modules(run)
    assert "mlflow" in loaded
    assert "torch" not in loaded


def test_an_alert_and_the_death_reach_the_webhook_signed_and_without_the_secret_on_disk(run, httpserver):
    httpserver.expect_request("/hook").respond_with_data("")
    run.environ |= {"NANWATCH_WEBHOOK_URL": httpserver.url_for("/hook"), "NANWATCH_WEBHOOK_SECRET": SECRET}
    run.train(GOES_BAD)
    run.prepare()
    run.start_agent()
    run.hear("acknowledged")
    run.trainer.kill()
    run.agent_ends()
    requests = [request for request, _ in httpserver.log]
    for request in requests:
        Webhook(SECRET).verify(request.get_data(), dict(request.headers.items()))
    kinds = [json.loads(request.get_data())["type"] for request in requests]
    assert sorted(set(kinds)) == ["nanwatch.alert.firing", "nanwatch.run.died"]
    assert len(kinds) == len({request.headers["webhook-id"] for request in requests})
    assert run.json("ledger.json")["sinks"]["webhook"]["sent"] == len(kinds)
    for path in run.dir.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")  # MLflow's own use of SQLAlchemy
def test_a_killed_run_is_killed_in_mlflow_and_run_json_says_which_run_it_is(run):
    from mlflow import MlflowClient

    uri = f"sqlite:///{run.dir}/mlflow.db"
    run.train(GOES_BAD)
    run.prepare({"mlflow": True, "tracking_uri": uri})
    run.environ.pop("PYTHONWARNINGS")
    run.start_agent()
    run.hear("acknowledged")
    run.trainer.kill()
    run.agent.wait(90)
    facts = run.json("run.json")["mlflow"]
    assert facts["tracking_uri"] == uri
    found = MlflowClient(uri).get_run(facts["run_id"])
    assert found.info.status == "KILLED"
    assert found.data.tags["nanwatch.end_reason"].startswith("killed")
    assert found.data.metrics["nanwatch/loss"] == 0.5


@pytest.fixture
def black_hole():
    """Takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_never_answers_delays_neither_acknowledgements_nor_webhooks_nor_the_end(
    run, httpserver, black_hole
):
    httpserver.expect_request("/hook").respond_with_data("")
    run.environ |= {"NANWATCH_WEBHOOK_URL": httpserver.url_for("/hook"), "MLFLOW_RUN_ID": "0" * 32}
    run.train(GOES_BAD)
    run.prepare({"mlflow": True, "tracking_uri": black_hole, "run_id": "0" * 32})
    run.start_agent()
    run.hear("acknowledged")
    run.trainer.kill()
    run.until(lambda: len(httpserver.log) >= 2)
    run.wait_for("the run is over: killed")
    for _ in range(2):  # as a scheduler that is in a hurry
        run.agent.terminate()
        time.sleep(0.5)
    run.agent.wait(30)
    assert "sink mlflow was not done in time; `nanwatch sync" in run.log()
    assert run.steps() == list(range(61))


def test_the_agent_of_a_restarted_job_waits_for_the_one_that_ships_its_last(run, black_hole):
    run.train('writer = begin(); writer.write(step(0)); wait_ack(writer); say("acknowledged")')
    run.prepare({"mlflow": True, "tracking_uri": black_hole, "run_id": "0" * 32})
    first = run.start_agent()
    run.hear("acknowledged")
    run.trainer.wait()
    run.wait_for("the run is over")
    run.train('writer = begin(); writer.write(step(1)); say("written"); wait_ack(writer); say("acknowledged")')
    run.prepare()
    run.hear("written")
    second = run.start_agent()
    run.wait_for(f"agent {second.pid} follows")
    for _ in range(2):
        first.terminate()
        time.sleep(0.5)
    first.wait(30)
    run.hear("acknowledged")
    run.agent_ends()
    assert run.steps() == [0, 1]
    assert run.json("ledger.json")["end"]["reason"] == "finished"

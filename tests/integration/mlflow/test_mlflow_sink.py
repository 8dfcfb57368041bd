"""What a run looks like in MLflow, in the embedded store and over HTTP."""

import json
import math
import os

import pytest
from mlflow import MlflowClient

from nanwatch.bundle.manifest import verify
from nanwatch.errors import SinkError
from nanwatch.records import MlflowRunRecord
from nanwatch.sinks.sink import RunEnd, Sink

FINISHED = RunEnd("finished", "", "FINISHED")


@pytest.fixture(params=["database", "server"])
def uri(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def name(request):
    """A run's name of its own for each test: the server outlives them."""
    return f"run-{request.node.name}"


def artifacts(client, run_id, path=None):
    for found in client.list_artifacts(run_id, path):
        if found.is_dir:
            yield from artifacts(client, run_id, found.path)
        else:
            yield found.path


def the_run(client, name):
    """The only run there is of that name."""
    (run,) = client.search_runs(["0"], f"attributes.run_name = '{name}'")
    return run


def test_a_run_with_an_incident(uri, name, training, tmp_path):
    # given a run of 300 steps that goes bad at step 280
    t = training(name, tracking_uri=uri)
    assert isinstance(t.sink, Sink)
    t.steps(0, 200)
    t.log(100, **{"val/loss": 0.5, "acc @1": 0.9, "never": float("nan")})
    t.vitals(1)
    t.alert()
    t.ship()
    t.vitals(20)
    t.steps(200, 300, bad_from=280)
    folder = t.incident(step=280)
    t.ship(20)
    (t.run_dir / "timeline.parquet").write_bytes(b"PAR1")
    # when it ends
    t.ship(30, final=True)
    t.sink.close(RunEnd("exception", "ValueError: nan", "FAILED"))
    # then there is one run that tells all of it
    client = MlflowClient(uri)
    run = the_run(client, name)
    assert run.info.run_id == t.sink.state()["run_id"]
    assert run.info.status == "FAILED"
    tags = {k: v for k, v in run.data.tags.items() if k.startswith("nanwatch.")}
    assert tags == {
        "nanwatch.run": name, "nanwatch.status": "crashed", "nanwatch.version": "0.1.0",
        "nanwatch.first_incident_step": "280", "nanwatch.origin": "log in head", "nanwatch.cause": "log_of_zero",
        "nanwatch.end_reason": "exception",
    }  # fmt: skip
    assert run.data.params == {}
    # metrics: twenty keys with a history, no NaN, the bad steps counted
    histories = {k: client.get_metric_history(run.info.run_id, k) for k in run.data.metrics}
    assert len([h for h in histories.values() if len(h) > 100]) >= 20
    assert all(math.isfinite(m.value) for history in histories.values() for m in history)
    assert max(m.step for m in histories["nanwatch/loss"]) == 279
    assert histories["nanwatch/nonfinite"][-1].value == 20
    assert histories["nanwatch/log/val.loss"][0].timestamp == round((t.START + 1) * 1000)
    assert {"nanwatch/grad_norm_by_block/0", "system/nanwatch/trainer_rss_mb"} <= histories.keys()
    assert "system/cpu_utilization_percentage" in histories
    # artifacts: the bundle comes back whole, and what belongs to the run
    found = set(artifacts(client, run.info.run_id))
    bundle = {f"nanwatch/incidents/inc-1/{p.relative_to(folder)}" for p in folder.rglob("*") if p.is_file()}
    assert found == bundle | {
        "nanwatch/alerts.json", "nanwatch/names.json", "nanwatch/plot.svg", "nanwatch/timeline.parquet",
    }  # fmt: skip
    back = client.download_artifacts(run.info.run_id, "nanwatch", str(tmp_path))
    assert verify(tmp_path / "nanwatch/incidents/inc-1") == []
    names = json.loads((tmp_path / "nanwatch/names.json").read_text())["names"]
    assert names == {"nanwatch/log/val.loss": "val/loss", "nanwatch/log/acc _1": "acc @1"}
    table = json.loads((tmp_path / "nanwatch/alerts.json").read_text())
    assert dict(zip(table["columns"], table["data"][0], strict=True))["summary"] == "loss rose"
    assert {"path": "nanwatch/alerts.json", "type": "table"} in json.loads(run.data.tags["mlflow.loggedArtifacts"])
    assert "incident, step 280" in (tmp_path / "nanwatch/plot.svg").read_text()
    assert back
    # the note: verdict, picture, and a link where people can follow one
    note = run.data.tags["mlflow.note.content"]
    assert "non-finite values at step 280" in note.splitlines()[1]
    assert f"get-artifact?path=nanwatch%2Fplot.svg&run_uuid={run.info.run_id}" in note
    assert ("?workflowType=machine_learning" in note) is uri.startswith("http")
    assert t.sink.state()["dropped"] == {"nonfinite_user_value": 1}


def test_a_run_that_goes_well(uri, name, training):
    t = training(name, tracking_uri=uri)
    t.steps(0, 5)
    t.ship(final=True)
    t.sink.close(FINISHED)
    run = the_run(MlflowClient(uri), name)
    assert (run.info.status, run.data.tags["nanwatch.status"]) == ("FINISHED", "ok")
    assert "no non-finite value in 5 steps, no alert" in run.data.tags["mlflow.note.content"]


def test_everything_sent_again_changes_nothing(uri, name, training):
    def history():
        client = MlflowClient(uri)
        run = the_run(client, name)
        return {
            key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        }, sorted(artifacts(client, run.info.run_id))

    t = training(name, tracking_uri=uri)
    t.steps(0, 300)
    t.incident(step=5)
    t.ship(final=True)
    before = history()
    # when an agent starts anew, reads the spool from the start and finds the incident again
    finished = t.sink._incidents[0]
    t.sink = t.new_sink()
    t.steps(0, 300)
    t.sink.incident(finished)
    t.ship(final=True)
    assert history() == before
    assert t.sink.state()["sent"]["artifacts"] < 3


def test_a_run_that_was_created_but_never_remembered_is_found_again(uri, name, training):
    t = training(name, tracking_uri=uri)
    t.steps(0, 5)
    t.ship(final=True)
    os.remove(t.run_dir / "mlflow.json")
    t.sink = t.new_sink()
    t.steps(0, 5)
    t.ship(final=True)
    assert the_run(MlflowClient(uri), name)


def test_nothing_is_created_before_the_user_had_time_to(uri, name, training):
    t = training(name, tracking_uri=uri)
    t.steps(0, 5)
    assert not t.sink.ship(t.START + 9, final=False)
    assert t.sink.state()["run_id"] is None
    t.ship(11)
    assert t.sink.state()["run_id"]


def test_a_script_that_never_trains_leaves_no_run(fresh_database, training, tmp_path):
    t = training(tracking_uri=fresh_database)
    t.vitals(1)
    assert t.sink.ship(t.START + 60, final=True)
    t.sink.close(FINISHED)
    assert not (tmp_path / "mlflow.db").exists()


def test_a_trainer_that_dies_before_its_first_step_leaves_a_run_that_says_so(database, training):
    t = training(tracking_uri=database)
    t.sink.ship(t.START + 60, final=True)
    t.sink.close(RunEnd("killed", "killed by SIGKILL", "KILLED"))
    run = the_run(MlflowClient(database), t.run.name)
    assert (run.info.status, run.data.tags["nanwatch.status"]) == ("KILLED", "crashed")


def test_the_default_store_is_the_one_that_mlflow_itself_would_use(training, tmp_path):
    t = training()
    t.steps(0, 5)
    t.incident(step=3)
    t.ship(final=True)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_experiment("0").artifact_location == f"{tmp_path}/mlruns/0"
    run = the_run(client, t.run.name)
    assert run.info.artifact_uri == f"{tmp_path}/mlruns/0/{run.info.run_id}/artifacts"
    assert (tmp_path / f"mlruns/0/{run.info.run_id}/artifacts/nanwatch/incidents/inc-1/report.html").exists()


def test_an_experiment_by_name(uri, name, training):
    t = training(name, tracking_uri=uri, experiment=f"exp {name}")
    t.steps(0, 2)
    t.ship(final=True)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(f"exp {name}")
    assert client.get_run(t.sink.state()["run_id"]).info.experiment_id == experiment.experiment_id


def test_the_users_run_gets_everything_and_its_own_end_wins(uri, name, training):
    # given a run of the user's with a note and a tag of its own
    client = MlflowClient(uri)
    users = client.create_run("0", run_name=name, tags={"mlflow.note.content": "my notes", "team": "a"}).info.run_id
    t = training(name, tracking_uri=uri)
    t.sink.observe(MlflowRunRecord(users, uri, "0"))
    t.steps(0, 50, bad_from=40)
    t.ship(1)
    t.incident(step=40)
    t.ship(2)
    client.set_terminated(users, "FINISHED")
    # when the trainer is gone
    t.ship(final=True)
    t.sink.close(RunEnd("exception", "", "FAILED"))
    # then the run is as the user ended it, with our part added
    run = the_run(client, name)
    assert run.info.run_id == users
    assert run.info.status == "FINISHED"
    assert run.data.tags["team"] == "a"
    assert run.data.tags["mlflow.note.content"].startswith("my notes\n\n<!-- nanwatch begin -->")
    assert run.data.tags["nanwatch.status"] == "crashed"
    assert len(client.get_metric_history(users, "nanwatch/loss")) == 40


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_a_run_that_the_user_could_not_end_is_ended(uri, name, training, status):
    client = MlflowClient(uri)
    users = client.create_run("0", run_name=name).info.run_id
    t = training(name, run_id=users, tracking_uri=uri)
    t.steps(0, 5)
    t.ship(1)
    t.ship(final=True)
    t.sink.close(RunEnd("vanished", "", status))
    assert the_run(client, name).info.status == status


def test_a_run_that_the_user_opens_late_takes_over(uri, name, training):
    # given a run that the agent had to create
    client = MlflowClient(uri)
    t = training(name, tracking_uri=uri)
    t.steps(0, 150)
    t.vitals(1)
    t.incident(step=20)
    t.ship()
    ours = t.sink.state()["run_id"]
    before = {k: len(client.get_metric_history(ours, k)) for k in client.get_run(ours).data.metrics}
    # when the user opens one
    users = client.create_run("0", run_name=name).info.run_id
    t.sink.observe(MlflowRunRecord(users, uri, "0"))
    t.ship(12)
    # then it has all that was logged, and ours is gone
    run = the_run(client, name)
    assert run.info.run_id == users == t.sink.state()["run_id"]
    assert client.get_run(ours).info.lifecycle_stage == "deleted"
    assert client.get_run(ours).info.status != "RUNNING"
    after = {k: len(client.get_metric_history(users, k)) for k in run.data.metrics}
    assert {k: after[k] for k in before} == before
    assert "nanwatch/incidents/inc-1/manifest.json" in set(artifacts(client, users))
    assert run.data.tags["nanwatch.first_incident_step"] == "20"
    assert "non-finite values at step 20" in run.data.tags["mlflow.note.content"]
    # and what comes later goes there too
    t.steps(150, 200)
    t.ship(final=True)
    t.sink.close(FINISHED)
    assert the_run(client, name).info.status == "FINISHED"
    assert client.get_metric_history(users, "nanwatch/loss")[-1].step == 199


def test_a_takeover_that_was_cut_short_is_completed(uri, name, training):
    client = MlflowClient(uri)
    t = training(name, tracking_uri=uri)
    t.steps(0, 50)
    t.incident(step=20)
    t.ship()
    ours = t.sink._state.target
    users = client.create_run("0", run_name=name).info.run_id
    # given an agent that died right after it had decided to move
    t.sink._state.moving_from = ours
    t.sink._finder._open(uri, users, t.START)
    # when the next one starts, and knows of no incident
    t.sink = t.new_sink()
    t.sink.observe(MlflowRunRecord(users, uri, "0"))
    t.ship(final=True)
    run = the_run(client, name)
    assert run.info.run_id == users
    assert len(client.get_metric_history(users, "nanwatch/loss")) == 50
    assert "nanwatch/incidents/inc-1/manifest.json" in set(artifacts(client, users))


def test_an_explicit_run_is_never_left(uri, name, training):
    client = MlflowClient(uri)
    asked, other = (client.create_run("0", run_name=name).info.run_id for _ in range(2))
    t = training(name, run_id=asked, tracking_uri=uri)
    t.sink.observe(MlflowRunRecord(other, uri, "0"))
    t.steps(0, 5)
    t.ship(final=True)
    assert t.sink.state()["run_id"] == asked
    assert client.get_run(other).data.metrics == {}


def test_the_open_run_ranks_above_the_environment(uri, name, training, monkeypatch):
    client = MlflowClient(uri)
    from_environment, users = (client.create_run("0", run_name=name).info.run_id for _ in range(2))
    monkeypatch.setenv("MLFLOW_RUN_ID", from_environment)
    t = training(name, run_id=from_environment, tracking_uri=uri)
    t.sink.observe(MlflowRunRecord(users, uri, "0"))
    t.steps(0, 5)
    t.ship(final=True)
    assert t.sink.state()["run_id"] == users


def test_the_run_of_the_environment_is_used_where_no_other_is(uri, name, training, monkeypatch):
    run_id = MlflowClient(uri).create_run("0", run_name=name).info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)
    t = training(name, run_id=run_id, tracking_uri=uri)
    t.steps(0, 5)
    assert not t.sink.ship(t.START + 1, final=False)
    t.ship(11)
    assert the_run(MlflowClient(uri), name).info.run_id == run_id


def test_a_deleted_run_is_no_place_to_try_again(uri, name, training):
    client = MlflowClient(uri)
    run_id = client.create_run("0", run_name=name).info.run_id
    t = training(name, run_id=run_id, tracking_uri=uri)
    t.steps(0, 5)
    t.ship()
    client.delete_run(run_id)
    t.steps(5, 9)
    with pytest.raises(SinkError, match="deleted") as refused:
        t.ship(12)
    assert refused.value.permanent


def test_an_unknown_run_is_no_place_to_try_again(uri, training):
    t = training(run_id="0" * 32, tracking_uri=uri)
    t.steps(0, 5)
    with pytest.raises(SinkError, match="is it the server") as refused:
        t.ship()
    assert refused.value.permanent


def test_host_metrics_stay_away_where_the_user_has_them(uri, name, training):
    client = MlflowClient(uri)
    users = client.create_run("0", run_name=name).info.run_id
    client.log_metric(users, "system/cpu_utilization_percentage", 5.0, step=0)
    t = training(name, run_id=users, tracking_uri=uri)
    for second in range(0, 100, 10):
        t.vitals(second)
        t.ship(second)
    keys = client.get_run(users).data.metrics
    assert {k for k in keys if k.startswith("system/")} == {
        "system/cpu_utilization_percentage",
        "system/nanwatch/trainer_rss_mb",
    }
    assert len(client.get_metric_history(users, "system/cpu_utilization_percentage")) == 1


def test_what_must_stay_local_stays_and_is_named(uri, name, training):
    t = training(name, tracking_uri=uri, upload_batch="none")
    t.steps(0, 5)
    folder = t.incident(step=3, **{"batch/tensors.safetensors": "upload_batch = none", "batch/tree.json": "private"})
    t.ship(final=True)
    client = MlflowClient(uri)
    run = the_run(client, name)
    found = set(artifacts(client, run.info.run_id, "nanwatch/incidents"))
    assert found == {f"nanwatch/incidents/{folder.name}/{n}" for n in ("incident.json", "report.html", "manifest.json")}
    assert "Not uploaded: `batch/tensors.safetensors` (upload_batch = none)" in run.data.tags["mlflow.note.content"]
    assert t.sink.state()["withheld"]["inc-1"]["batch/tree.json"]


def test_a_metric_that_mlflow_refuses_costs_itself_alone(uri, name, training):
    from nanwatch.sinks.mlflow_windows import Point

    t = training(name, tracking_uri=uri)
    t.steps(0, 60)
    t.sink._outgoing.add([Point("poison#", 1.0, 0, 0)])
    t.steps(60, 100)
    t.ship(final=True)
    client = MlflowClient(uri)
    assert len(client.get_metric_history(t.sink.state()["run_id"], "nanwatch/loss")) == 100
    assert t.sink.state()["dropped"] == {"metric_refused": 1}

"""attach and Watch with a real agent, without MLflow."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import textwrap
import time

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nanwatch
from nanwatch.bundle.reader import Bundle


@pytest.fixture(autouse=True)
def surroundings(tmp_path, monkeypatch):
    monkeypatch.setenv("NANWATCH_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("NANWATCH_MLFLOW", "0")
    monkeypatch.setenv("NANWATCH_STRICT", "1")
    monkeypatch.chdir(tmp_path)


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def train(net, steps, bad=(), watch=None):
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    for i in range(steps):
        x = torch.rand(6, 4)
        if i in bad:
            x[2] = float("inf")
        opt.zero_grad()
        F.cross_entropy(net(x), torch.zeros(6, dtype=torch.long)).backward()
        opt.step()


def wait_for(condition, timeout_s=30):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)


def test_an_incident_from_attach_to_the_complete_bundle(capfd):
    net = model()
    with nanwatch.attach(net) as watch:
        watch.log(val_loss=0.5, val_accuracy=torch.tensor(0.9))
        train(net, 12, bad=(7,))
        assert watch.flush(timeout=30)
        (incident,) = watch.incidents
        bundle = Bundle.open(watch.folder / "incidents" / incident.id)
        firing = [a for a in watch.alerts if a.state == "firing"]
        health = watch.health()
    assert bundle.incident == incident
    assert (incident.step, incident.origin.phase, incident.origin.batch_rows) == (7, "data", (2,))
    assert [a.type for a in firing] == ["nonfinite"]
    assert (health["steps"], health["records_dropped"], health["faults"]) == (12, 0, {})
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith("nanwatch watches Sequential (58 parameters)")
    assert 1 < len(lines) <= 13
    assert "the loss became NaN at step 7" in err or "the loss became infinite at step 7" in err
    assert "input came with infinity" in err


def test_the_run_ends_with_the_last_detach():
    a, b = model(), model()
    first, second = nanwatch.attach(a), nanwatch.attach(b)
    assert first.folder == second.folder
    train(a, 2)
    first.detach()
    first.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in a.modules())
    train(b, 3)
    second.detach()
    wait_for((first.folder / "timeline.parquet").exists)
    wait_for(lambda: first._run.agent.poll() is not None)
    assert first._run.agent.returncode == 0
    third = nanwatch.attach(a)
    assert third.folder != first.folder
    third.detach()


def test_attaching_a_model_again_replaces_the_first_time():
    net = model()
    first = nanwatch.attach(net)
    second = nanwatch.attach(net, on_nonfinite="skip")
    train(net, 3)
    assert second._run.steps == 3
    assert first._run.closed
    second.detach()


def test_other_settings_beside_a_watched_model_are_refused():
    a, b = model(), model()
    watch = nanwatch.attach(a)
    with pytest.raises(nanwatch.errors.SetupError, match=r"on_nonfinite.*first attach"):
        nanwatch.attach(b, on_nonfinite="stop")
    watch.detach()


def test_stop_raises_with_the_incident_and_keeps_the_weights():
    net = model()
    watch = nanwatch.attach(net, on_nonfinite="stop")
    train(net, 3)
    before = [p.detach().clone() for p in net.parameters()]
    with pytest.raises(nanwatch.NonFiniteError, match="cause bad_input") as caught:
        train(net, 3, bad=(0,))
    assert caught.value.incident.step == 3
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    watch.detach()


def test_capture_without_a_fault():
    net = model()
    with nanwatch.attach(net) as watch:
        train(net, 2)
        watch.capture("looks odd")
        train(net, 2)
        assert watch.flush(timeout=30)
        (incident,) = watch.incidents
        assert (incident.kind, incident.reason, incident.seen.where) == ("capture", "looks odd", "none")
        graph = Bundle.open(watch.folder / "incidents" / incident.id).json("graph.json")
        assert {m["id"] for m in graph["modules"]} >= {"0", "2"}
        assert not [a for a in watch.alerts if a.severity != "info"]


def test_more_incidents_than_allowed_are_counted():
    net = model()
    with nanwatch.attach(net, max_incidents=1, on_nonfinite="skip") as watch:
        train(net, 60, bad=(5, 40))
        assert len(watch.incidents) == 1
        assert watch.health()["incidents_not_examined"] == 1


def test_disabled_is_a_no_op(monkeypatch):
    monkeypatch.setenv("NANWATCH_DISABLED", "1")
    net = model()
    watch = nanwatch.attach(net)
    train(net, 2, bad=(0,))
    watch.log(x=1)
    watch.capture("no")
    assert watch.flush()
    assert (watch.incidents, watch.alerts, watch.folder) == ([], [], None)
    watch.detach()


def test_a_place_that_cannot_be_written_is_replaced(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with caplog.at_level(logging.WARNING, "nanwatch"):
        watch = nanwatch.attach(model(), dir=tmp_path / "file" / "below")
    assert watch.folder.is_relative_to(tmp_path / "state")
    assert "set dir= or NANWATCH_DIR" in caplog.text
    watch.detach()


BAD = [
    (lambda: nanwatch.attach(nn.ReLU()), "no parameters"),
    (lambda: nanwatch.attach("model"), r"needs a torch.nn.Module, and got a str"),
    (lambda: nanwatch.attach(nn.Linear), r"write attach\(Model\(\)\)"),
    (lambda: nanwatch.attach({}), "empty mapping"),
    (lambda: nanwatch.attach({"": nn.Linear(1, 1)}), "non-empty string"),
    (lambda: nanwatch.attach(nn.Linear(1, 1), on_nonfinit="stop"), "did you mean 'on_nonfinite'"),
    (lambda: nanwatch.attach(nn.Linear(1, 1), on_nonfinite="explode"), "on_nonfinite"),
    (lambda: nanwatch.attach(nn.Linear(1, 1), guard="freeze"), "not available: use 'shadow'"),
    (lambda: nanwatch.attach(nn.Linear(1, 1), guard="none", on_nonfinite="skip"), "use 'auto'"),
    (lambda: nanwatch.attach(nn.Linear(600, 600), guard="shadow", max_shadow_mib=1), "needs about 5 MiB .*auto"),
    (lambda: nanwatch.attach(nn.Linear(1, 1), rules="missing.yaml"), "missing.yaml"),
    (lambda: nanwatch.attach(nn.Linear(1, 1), rules=[{"type": "spike", "id": "a", "metrc": "loss"}]), "metric"),
    (lambda: nanwatch.attach(nn.Linear(1, 1), webhook="example.org/hook"), "https://"),
    (lambda: nanwatch.attach(nn.Linear(1, 1), webhook_secret="abc"), "whsec_"),
]


@pytest.mark.parametrize(("call", "says"), BAD, ids=[s for _, s in BAD])
def test_mistakes_fail_at_attach_with_what_to_do(tmp_path, call, says):
    with pytest.raises(ValueError, match=says):
        call()
    assert not (tmp_path / "runs").exists(), "nothing is left behind"


def test_a_bad_rule_file_is_told_with_its_place(tmp_path):
    (tmp_path / "rules.yaml").write_text("version: 1\nrules:\n  - {id: a, type: threshold, metric: loss, abov: 3}\n")
    with pytest.raises(nanwatch.errors.RuleError, match=r"rules.yaml:3:\d+.*did you mean 'above'"):
        nanwatch.attach(model(), rules="rules.yaml")


def test_a_model_whose_parameters_do_not_train_is_said(caplog):
    net = model().requires_grad_(False)
    with caplog.at_level(logging.WARNING, "nanwatch"):
        nanwatch.attach(net).detach()
    assert "requires a gradient" in caplog.text


def script(tmp_path, body):
    path = tmp_path / "program.py"
    path.write_text("import torch, nanwatch\nfrom torch import nn\n" + textwrap.dedent(body))
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=100)


def run_folder(tmp_path):
    (folder,) = (tmp_path / "runs").iterdir()
    return folder


def ledger(tmp_path):
    folder = run_folder(tmp_path)
    wait_for(lambda: (folder / "timeline.parquet").exists() or "ends" in (folder / "agent.log").read_text())
    return json.loads((folder / "ledger.json").read_text())


def test_a_program_that_ends_before_the_first_step(tmp_path):
    done = script(tmp_path, "nanwatch.attach(nn.Linear(2, 2))\n")
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 1
    wait_for(lambda: "ends" in (run_folder(tmp_path) / "agent.log").read_text())
    assert "no_step_seen" in json.dumps(ledger(tmp_path))


def test_an_exception_of_the_program_is_passed_on_and_told(tmp_path):
    done = script(tmp_path, "nanwatch.attach(nn.Linear(2, 2))\nraise KeyError('mine')\n")
    assert done.returncode == 1
    assert "KeyError: 'mine'" in done.stderr
    wait_for(lambda: "exception" in (run_folder(tmp_path) / "agent.log").read_text())


def test_data_loader_workers_and_forked_children(tmp_path):
    done = script(
        tmp_path,
        """
        from torch.utils.data import DataLoader, TensorDataset
        net = nn.Linear(3, 1)
        watch = nanwatch.attach(net)
        opt = torch.optim.SGD(net.parameters(), lr=0.1)
        data = DataLoader(TensorDataset(torch.rand(40, 3)), batch_size=4, num_workers=2)
        for (x,) in data:
            opt.zero_grad(); net(x).mean().backward(); opt.step()
        assert watch.flush(30), watch.health()
        print(watch.health()["steps"])
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "10\n"
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 1

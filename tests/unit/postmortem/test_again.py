"""A bundle's step, run again from its files alone."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from factory import Net
from watching import watching

from nanwatch.bundle.reader import Bundle
from nanwatch.errors import BundleError
from nanwatch.postmortem.again import replay_bundle


def incident_folder(tmp_path, *, target=False, **privacy):
    torch.manual_seed(0)
    net = Net()
    opt = torch.optim.AdamW(net.parameters(), lr=0.01)
    with watching(net, tmp_path, **privacy) as seen:
        for i in range(5):
            x, scale, y = torch.rand(6, 4), torch.ones(6), torch.rand(6, 2)
            if i == 3:
                (y if target else scale)[2] = float("nan") if target else 0.0
            out = net(x, scale=scale)
            hidden = (out["hidden"] ** 2 - 1 / (2 + out["hidden"]) @ torch.ones(16, 1)) % 7
            loss = F.mse_loss(out["logits"][:, :2].softmax(-1), y) + 0.1 * hidden.mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
    return tmp_path / "incidents" / seen.incident.id, seen.incident


def test_the_same_origin_in_loss_and_model_with_dropout_and_running_statistics(tmp_path):
    folder, incident = incident_folder(tmp_path)
    again = replay_bundle(folder, "factory:make")
    assert (again.verdict, again.differences) == ("reproduced", ())
    assert (again.op, again.module) == (incident.origin.op, incident.origin.module) == ("aten::div", "")
    assert again.file.endswith("factory.py")
    assert "reproduced: aten::div" in str(again)


def test_the_targets_are_in_the_bundle(tmp_path):
    folder, incident = incident_folder(tmp_path, target=True)
    assert incident.cause.label == "bad_label"
    assert replay_bundle(folder, "factory:make").verdict == "reproduced"


def test_another_model_is_refused(tmp_path):
    folder, _ = incident_folder(tmp_path)
    with pytest.raises(BundleError, match="same model"):
        replay_bundle(folder, "factory:other")
    with pytest.raises(BundleError, match=r"package\.module:callable"):
        replay_bundle(folder, "factory")
    with pytest.raises(BundleError, match="cannot be imported"):
        replay_bundle(folder, "factory:missing")


def test_a_program_that_calls_something_else_than_torch_is_refused(tmp_path):
    folder, _ = incident_folder(tmp_path)
    program = json.loads((folder / "program.json").read_text())
    program["operations"][1]["op"] = "os.system"
    (folder / "program.json").write_text(json.dumps(program))
    with pytest.raises(BundleError):
        replay_bundle(folder, "factory:make")


def test_what_may_not_be_kept_is_nowhere(tmp_path):
    canary = 123456.789
    torch.manual_seed(0)
    net = Net()
    with watching(net, tmp_path, capture_batch="none", capture_parameters="none") as seen:
        x = torch.full((6, 4), canary)
        x[0, 0] = float("nan")
        net(x, scale=torch.ones(6))["logits"].mean().backward()
    folder = tmp_path / "incidents" / seen.incident.id
    assert not (folder / "batch" / "tensors.safetensors").exists()
    assert not (folder / "state" / "parameters.safetensors").exists()
    assert json.loads((folder / "batch" / "tree.json").read_text())["captured"] == "none"
    assert json.loads((folder / "preview.json").read_text())["rows"] == []
    with pytest.raises(BundleError, match="not in this bundle"):
        replay_bundle(folder, "factory:make")


def test_redaction_holds_for_the_preview_as_well(tmp_path):
    folder, _ = incident_folder(tmp_path, redact=lambda path, tensor: torch.zeros_like(tensor))
    rows = json.loads((folder / "preview.json").read_text())["rows"]
    assert rows
    assert all(set(row["values"]) == {0.0} for row in rows)


def test_every_member_of_the_trainer_is_there(tmp_path):
    folder, incident = incident_folder(tmp_path)
    bundle = Bundle.open(folder)
    assert bundle.incident == incident
    wanted = {"incident.json", "traceback.txt", "batch/tree.json", "batch/tensors.safetensors", "state/tree.json",
              "state/rng.safetensors", "state/buffers.safetensors", "state/parameters.safetensors", "program.json",
              "graph.json", "preview.json", "environment.json"}  # fmt: skip
    assert wanted <= set(bundle.members)
    traceback = (folder / "traceback.txt").read_text()
    assert 'logits": self.out(h) / scale.unsqueeze(1)' in traceback
    assert "division" not in traceback, "the traceback says what happened, the cause stands elsewhere"

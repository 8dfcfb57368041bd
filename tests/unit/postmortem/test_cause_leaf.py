"""The cause of a value that was bad before the step: an input, a label, a parameter, a buffer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from watching import watching

NAN = float("nan")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("scale", torch.ones(3))

    def forward(self, x):
        return self.fc(x) * self.scale


def step(folder, *, x=None, loss=lambda out: out.mean(), before=None, after=None):
    net = Net()
    if before is not None:
        before(net)
    optimizer = torch.optim.Adam(net.parameters())
    with watching(net, folder) as seen:
        if after is not None:
            after(net)
        loss(net(torch.ones(6, 4) if x is None else x)).backward()
        optimizer.step()
    return seen.incidents[0]


def spoilt(*shape):
    out = torch.ones(*shape)
    out[3, 1] = NAN
    return out


def test_an_input_says_row_and_feature(tmp_path):
    incident = step(tmp_path, x=spoilt(6, 4))
    assert (incident.origin.phase, incident.cause.label) == ("data", "bad_input")
    assert incident.cause.why[0].startswith("x holds nan in row 3, feature 1 before the model has touched it")


READ_BY_THE_LOSS = {
    "by_hand": lambda out, z: (out - z).pow(2).mean(),
    "sliced": lambda out, z: (out - torch.cat([z, z])[:6]).abs().mean(),
    "left_out_too_late": lambda out, z: torch.where(z.isnan(), 0.0, (out - z) ** 2).mean(),
}


@pytest.mark.parametrize("name", READ_BY_THE_LOSS)
def test_what_only_the_loss_reads_is_a_label(tmp_path, name):
    z = spoilt(6, 3)
    incident = step(tmp_path, loss=lambda out: READ_BY_THE_LOSS[name](out, z))
    assert (incident.origin.phase, incident.cause.label, incident.origin.batch_rows) == ("data", "bad_label", (3,))


def test_what_the_model_reads_too_is_an_input(tmp_path):
    x = spoilt(6, 4)
    incident = step(tmp_path, x=x, loss=lambda out: (out - x[:, :3]).pow(2).mean())
    assert incident.cause.label == "bad_input"


def spoil_weight(net):
    with torch.no_grad():
        net.fc.weight[0, 0] = NAN


def spoil_buffer(net):
    net.scale[1] = NAN


@pytest.mark.parametrize(("spoil", "name"), [(spoil_weight, "fc.weight"), (spoil_buffer, "scale")])
def test_bad_at_attach(tmp_path, spoil, name):
    incident = step(tmp_path, before=spoil)
    assert (incident.origin.phase, incident.origin.param, incident.cause.label) == ("params", name, "bad_init")
    assert "already when the watch began" in incident.cause.why[0]


def test_a_buffer_that_went_bad_later_is_no_initialisation(tmp_path):
    incident = step(tmp_path, after=spoil_buffer)
    assert (incident.origin.param, incident.cause.label) == ("scale", "bad_checkpoint")
    assert incident.cause.confidence == "possible"


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD])
def test_a_parameter_added_later_and_never_updated(tmp_path, kind):
    net = Net()
    optimizer = kind(net.parameters())
    with watching(net, tmp_path) as seen:
        for i in range(2):
            if i:
                net.extra = nn.Parameter(torch.full((3,), NAN))
                optimizer.add_param_group({"params": [net.extra]})
            out = net(torch.ones(6, 4))
            (out + net.extra if i else out).mean().backward()
            optimizer.step()
    assert (seen.incidents[0].origin.param, seen.incidents[0].cause.label) == ("extra", "uninitialised_memory")

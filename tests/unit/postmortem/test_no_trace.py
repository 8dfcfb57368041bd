"""After a post-mortem the training is exactly where it was."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from watching import watching


class Noisy(nn.Module):
    """Draws from every generator, keeps running statistics, and fails where the batch is zero."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.drop = nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3)

    def forward(self, x):
        h = self.drop(self.norm(self.fc(x))) * (1 + random.random()) * (1 + np.random.rand())  # noqa: NPY002 the global one is what users draw from
        return h / x.sum()


def states(net):
    return (
        torch.get_rng_state().tolist(),
        random.getstate(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        [b.clone() for b in net.buffers()],
        [p.grad.clone() for p in net.parameters()],
        [m.training for m in net.modules()],
        torch.is_anomaly_enabled(),
    )


def same(a, b):
    for x, y in zip(a, b, strict=True):
        if isinstance(x, list) and x and isinstance(x[0], torch.Tensor):
            assert all(torch.equal(s.nan_to_num(9e9), t.nan_to_num(9e9)) for s, t in zip(x, y, strict=True))
        else:
            assert x == y


def run(tmp_path, *, watched):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    net = Noisy()
    opt = torch.optim.AdamW(net.parameters())
    incidents = []

    def steps():
        for i in range(5):
            net(torch.ones(6, 4) * (i != 3)).mean().backward()
            if i < 4:
                opt.step()
                opt.zero_grad()

    if watched:
        with watching(net, tmp_path) as seen:
            steps()
        incidents = seen.incidents
    else:
        steps()
    return states(net), [p.detach().clone() for p in net.parameters()], incidents


def test_generators_buffers_gradients_and_flags_are_restored(tmp_path):
    bare, bare_weights, _ = run(tmp_path, watched=False)
    watched, weights, incidents = run(tmp_path, watched=True)
    assert incidents[0].step == 3
    assert incidents[0].replay.bitwise
    same(bare, watched)
    assert all(torch.equal(a.nan_to_num(9e9), b.nan_to_num(9e9)) for a, b in zip(bare_weights, weights, strict=True))


def test_hooks_and_optimizer_in_backward_do_not_fire_in_the_replay(tmp_path):
    net = nn.Linear(3, 1)
    fired = []
    net.weight.register_post_accumulate_grad_hook(lambda p: fired.append(1))
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with watching(net, tmp_path) as seen:
        for i in range(3):
            opt.zero_grad()
            net(torch.full((2, 3), float("nan") if i == 1 else 1.0)).mean().backward()
            opt.step()
    assert seen.incidents
    assert len(fired) == 3


class Keeps(nn.Module):
    """Keeps tensors of its own in attributes, a list and a dict, and a count of its calls."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.total, self.seen, self.named = torch.zeros(4), [torch.zeros(4)], {"last": torch.zeros(4)}
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        h = self.fc(x)
        self.total = self.total + h.detach().sum(0)
        self.seen.append(h.detach()[0])
        self.named["last"] = h.detach()[1]
        return h / (x.sum(1, keepdim=True).abs() > 0.5)

    def own(self):
        return [self.total, *self.seen, *self.named.values(), torch.tensor(self.calls)]


class Recurrent(nn.Module):
    """An LSTM whose embedding is also the output layer, a spectral norm, dropout, an autocast region inside."""

    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(8, 4), nn.LSTM(4, 4, num_layers=2, dropout=0.2, batch_first=True)
        self.norm = nn.BatchNorm1d(4)
        self.mix = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.head = nn.Linear(4, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        tokens = x.long().clamp(0, 7)
        h, _ = self.lstm(self.embed(tokens))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = self.mix(h[:, -1])
        return F.log_softmax(self.head(self.norm(h.float())), 1) * (1.0 / x.sum(1, keepdim=True))

    def own(self):
        return [
            torch.tensor(id(w) == id(p)) for w, p in zip(self.lstm._flat_weights, self.lstm.parameters(), strict=True)
        ]


def batches():
    torch.manual_seed(7)
    for i in range(5):
        x = torch.rand(6, 4) * 7 + 1
        if i == 2:
            x[4] = 0
        yield x


def train(net, tmp_path, *, watched, autocast):
    """Losses, weights, buffers, batches and generators of a run whose third step is bad, and what was said of it."""
    opt = torch.optim.AdamW(net.parameters(), lr=1e-2)
    seen, losses, used = None, [], []

    def steps():
        for x in batches():
            opt.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = net(x).float().mean()
                loss.backward()  # inside of the region, as some write it: its cache of casts is alive
                if torch.isfinite(loss):
                    opt.step()
                losses.append(loss.detach().clone())
            used.append(x)

    if watched:
        with watching(net, tmp_path) as seen:
            steps()
    else:
        steps()
    state = [*net.state_dict().values(), *(p.grad for p in net.parameters()), *getattr(net, "own", list)()]
    state += [torch.get_rng_state(), *losses, *used]
    return [t.detach().clone() for t in state], seen.incidents if watched else []


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("make", [Keeps, Recurrent])
def test_experiments_leave_the_training_as_it_was(tmp_path, make, autocast):
    torch.manual_seed(0)
    bare, _ = train(make(), tmp_path, watched=False, autocast=autocast)
    torch.manual_seed(0)
    watched, incidents = train(make(), tmp_path, watched=True, autocast=autocast)
    (incident,) = incidents
    names = {e.name for e in incident.replay.experiments}
    assert {"same step again", "rows"} <= names
    assert names & {"float32", "float64"}
    assert len(bare) == len(watched)
    for i, (a, b) in enumerate(zip(bare, watched, strict=True)):
        assert a.dtype == b.dtype
        assert torch.equal(a.nan_to_num(9e9) if a.is_floating_point() else a,
                           b.nan_to_num(9e9) if b.is_floating_point() else b), i  # fmt: skip


def test_hooks_of_the_training_are_its_own_after_the_experiments(tmp_path):
    """A hook on a parameter that mends gradients works in the experiments too, and is on the parameter alone after."""
    net, calls = nn.Linear(4, 4), []

    def mend(gradient):
        calls.append(1)
        return gradient.nan_to_num(0.0)

    handle = net.bias.register_hook(mend)
    with watching(net, tmp_path) as seen:
        torch.sqrt(net(torch.ones(3, 4)) * 0).sum().backward()
    assert [e.finite for e in seen.incident.replay.experiments if e.name == "float64"] == [False]
    before = len(calls)
    handle.remove()
    net(torch.ones(3, 4)).sum().backward()
    assert len(calls) == before

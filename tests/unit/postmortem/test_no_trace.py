"""After a post-mortem the training is exactly where it was."""

from __future__ import annotations

import random

import numpy as np
import torch
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

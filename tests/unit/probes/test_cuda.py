"""The same promises on a GPU; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from watching import watching

from nanwatch.probes.statistics import measure

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def train(net, opt, steps, *, bad=None, scaler=None):
    for i in range(steps):
        x, y = torch.rand(6, 4, device="cuda"), torch.randint(0, 2, (6,), device="cuda")
        if i == bad:
            x[3] = float("nan")
        opt.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16, enabled=scaler is not None):
            loss = F.cross_entropy(net(x), y)
        if scaler is None:
            loss.backward()
            opt.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()


def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)).cuda()
    return net, torch.optim.AdamW(net.parameters())


def test_statistics_agree_with_the_cpu():
    gradients = [torch.randn(n) for n in (1, 7, 4097)]
    here, _ = measure(gradients, count_zeros=True)
    there, bad = measure([g.cuda() for g in gradients], count_zeros=True)
    assert bad == []
    assert np.allclose(here, there, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_a_bad_batch_is_replayed_bit_for_bit(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        train(net, opt, 5, bad=3)
    assert (seen.incident.step, seen.incident.origin.phase, seen.incident.origin.batch_rows) == (3, "data", (3,))
    assert seen.incident.replay.bitwise


def test_overflow_on_purpose_is_no_incident(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        train(net, opt, 30, scaler=torch.amp.GradScaler("cuda", init_scale=2.0**40))
    assert not seen.trips


def test_weights_are_the_same_with_and_without(tmp_path):
    net, opt = make()
    train(net, opt, 20)
    twin, twin_opt = make()
    with watching(twin, tmp_path):
        train(twin, twin_opt, 20)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))

"""The same promises on a GPU; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from watching import watching

from nanwatch.probes.statistics import measure
from nanwatch.settings import resolve
from nanwatch.trainer.guard import chosen_guard

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


MUCH = 1 << 28


def test_the_shadow_makes_nobody_wait(tmp_path):
    net, opt = make()
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        train(net, opt, 3)
        was = [p.detach().clone() for p in net.parameters()]
        torch.cuda.set_sync_debug_mode("error")
        try:
            seen.probes.shadow.save(opt, lambda: ())
        finally:
            torch.cuda.set_sync_debug_mode("default")
        kept = [seen.probes.shadow.before(p) for p in net.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(was, kept, strict=True))


def test_with_a_shadow_the_weights_are_the_same_to_the_bit(tmp_path):
    weights = []
    for i, shadow_bytes in enumerate((None, MUCH)):
        net, opt = make()
        with watching(net, tmp_path / str(i), shadow_bytes=shadow_bytes):
            train(net, opt, 100)
        weights.append([p.detach().clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("settings", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
def test_a_fault_of_the_step_that_shows_in_the_next_loss(tmp_path, settings):
    """On a device parameters are looked at every tenth step; the step that spoilt them is run again all the same."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)).cuda()
    opt = torch.optim.Adam(net.parameters(), eps=0.0, **settings)
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        for i in range(6):
            opt.zero_grad()
            net(torch.rand(6, 4, device="cuda")).pow(2).mean().backward()
            if i == 3:
                net[0].bias.grad[2] = 0
                opt.state[net[0].bias]["exp_avg"][2] = 0
                opt.state[net[0].bias]["exp_avg_sq"][2] = 0
            opt.step()
    o = seen.incident.origin
    assert (o.phase, o.param, o.code) == ("optimizer", "0.bias", "opt.step()")
    assert (seen.incident.step, seen.incident.cause.label) == (3, "optimizer_eps")
    assert (seen.incident.replay.verdict, seen.incident.replay.bitwise) == ("reproduced", True)


def test_a_fault_of_the_step_whose_gradient_is_gone_is_told_without_the_operation(tmp_path):
    net, opt = make()
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        for i in range(5):
            opt.zero_grad(set_to_none=False)
            net(torch.rand(6, 4, device="cuda")).pow(2).mean().backward()
            opt.param_groups[0]["lr"] = float("inf") if i == 3 else 1e-3
            opt.step()
    assert (seen.incident.step, seen.incident.origin.phase, seen.incident.origin.op) == (3, "optimizer", None)
    assert "overwritten" in seen.incident.replay.error


def test_auto_keeps_a_shadow_where_it_fits():
    net, _ = make()
    assert chosen_guard(resolve({}, {}), [net]) == "shadow"
    assert chosen_guard(resolve({"max_shadow_mib": 0}, {}), [net]) == "sync"
    assert chosen_guard(resolve({}, {}), [net.cpu()]) == "sync"

"""What the probes see of programs written in different ways, and that they leave no trace."""

from __future__ import annotations

import math
import sys
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from watching import watching

L2 = 0


def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    return net, torch.optim.SGD(net.parameters(), lr=0.1)


def batch(n=6):
    return torch.randn(n, 4), torch.randint(0, 2, (n,))


def step(net, opt, scale=1.0):
    x, y = batch()
    loss = F.cross_entropy(net(x), y) * scale
    opt.zero_grad()
    loss.backward()
    opt.step()
    return loss


def test_a_plain_loop_gives_a_record_a_step(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        losses = [step(net, opt).item() for _ in range(5)]
    assert [r.step for r in seen.steps] == [0, 1, 2, 3, 4]
    assert [r.loss for r in seen.steps] == pytest.approx(losses)
    assert {r.lr for r in seen.steps} == {0.1}
    assert seen.names.names == ("0.weight", "0.bias", "3.weight", "3.bias")
    assert seen.names.numels == (32, 8, 16, 2)
    assert all(np.isfinite(r.stats_KS[:, L2]).all() for r in seen.steps)
    assert not seen.trips


def test_gradients_are_measured_before_clipping_and_the_clipped_norm_is_known(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        x, y = batch()
        (F.cross_entropy(net(x), y) * 1e4).backward()
        raw = torch.stack([p.grad.norm() for p in net.parameters()]).norm()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        opt.step()
    (record,) = seen.steps
    assert np.linalg.norm(record.stats_KS[:, L2]) == pytest.approx(float(raw), rel=1e-4)
    assert record.grad_norm_clipped == pytest.approx(1.0)


def test_gradient_accumulation_counts_micro_steps_and_averages_the_loss(tmp_path):
    net, opt = make()
    losses = []
    with watching(net, tmp_path) as seen:
        for _ in range(3):
            x, y = batch()
            loss = F.cross_entropy(net(x), y)
            loss.backward()
            losses.append(loss.item())
        opt.step()
    (record,) = seen.steps
    assert record.micro_steps == 3
    assert record.loss == pytest.approx(sum(losses) / 3)


def test_the_bad_micro_step_is_named(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        for i in range(3):
            x, y = batch()
            if i == 1:
                x[2] = float("nan")
            F.cross_entropy(net(x), y).backward()
        opt.step()
    assert seen.incident.micro_step == 1
    assert seen.incident.origin.phase == "data"
    assert seen.incident.origin.batch_rows == (2,)


def test_a_subclass_that_calls_super_step_counts_once(tmp_path):
    class Twice(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    net, _ = make()
    opt = Twice(net.parameters(), lr=0.1)
    with watching(net, tmp_path) as seen:
        for _ in range(3):
            step(net, opt)
    assert [r.step for r in seen.steps] == [0, 1, 2]


def test_lbfgs_closures_belong_to_one_step(tmp_path):
    net = nn.Linear(4, 1)
    opt = torch.optim.LBFGS(net.parameters(), max_iter=3)
    x, y = torch.randn(8, 4), torch.randn(8, 1)

    def closure():
        opt.zero_grad()
        loss = F.mse_loss(net(x), y)
        loss.backward()
        return loss

    with watching(net, tmp_path) as seen:
        opt.step(closure)
        opt.step(closure)
    assert [r.step for r in seen.steps] == [0, 1]
    assert seen.steps[0].micro_steps > 1


def test_two_models_and_two_optimizers(tmp_path):
    g, d = nn.Linear(3, 4), nn.Linear(4, 1)
    og, od = torch.optim.SGD(g.parameters(), lr=0.1), torch.optim.SGD(d.parameters(), lr=0.2)
    with watching({"G": g, "D": d}, tmp_path) as seen:
        for _ in range(3):
            fake = g(torch.randn(5, 3))
            od.zero_grad()
            d(fake.detach()).mean().backward()
            od.step()
            og.zero_grad()
            (-d(fake).mean()).backward()
            og.step()
    assert seen.names.names == ("G.weight", "G.bias", "D.weight", "D.bias")
    assert [r.step for r in seen.steps] == [0, 1, 2]
    assert not seen.trips


def test_an_optimizer_that_steps_inside_the_backward(tmp_path):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in net.parameters()}

    def update(p):
        optimizers[p].step()
        p.grad = None

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(update)
    with watching(net, tmp_path) as seen:
        for _ in range(4):
            x, y = batch()
            F.cross_entropy(net(x), y).backward()
    assert [r.step for r in seen.steps] == [0, 1, 2, 3]
    assert np.isfinite(seen.steps[-1].stats_KS[:, L2]).all()


def test_a_root_that_is_never_called_is_still_replayed(tmp_path):
    class Container(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def training_step(self, x, y):
            return F.cross_entropy(self.head(torch.log(self.encoder(x).abs() * x.abs().sum().sign())), y)

    model = Container()
    opt = torch.optim.SGD(model.parameters(), lr=1e-3)
    with watching(model, tmp_path) as seen:
        for i in range(5):
            x, y = batch()
            loss = model.training_step(x * (i != 3), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    assert seen.incident.step == 3
    assert seen.incident.origin.op == "aten::log"
    assert seen.incident.origin.phase == "loss"


def test_gradscaler_overflow_on_purpose_is_no_incident(tmp_path):
    net, opt = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=1000)
    with watching(net, tmp_path) as seen:
        for _ in range(30):
            x, y = batch()
            opt.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(net(x), y)
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
    assert not seen.trips
    assert any(r.scaler_skipped for r in seen.steps)
    assert seen.steps[-1].loss_scale < 2.0**40
    assert seen.steps[-1].loss < 10, "the factor is taken out of the loss"


def test_a_real_fault_under_gradscaler_is_an_incident(tmp_path):
    net, opt = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    with watching(net, tmp_path) as seen:
        for i in range(4):
            x, y = batch()
            opt.zero_grad()
            out = net(x * (i != 2))
            loss = F.cross_entropy(out, y) + torch.sqrt((x * (i != 2)).sum() * out.sum() * 0).mean()
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
    assert seen.incidents
    assert seen.incidents[0].origin.op == "aten::sqrt"
    assert seen.incidents[0].amp["scaler"] is True


def test_autograd_grad_with_gradients_set_by_hand(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        for _ in range(2):
            x, y = batch()
            gradients = torch.autograd.grad(F.cross_entropy(net(x), y), list(net.parameters()))
            for p, g in zip(net.parameters(), gradients, strict=True):
                p.grad = g
            opt.step()
    assert [r.step for r in seen.steps] == [0, 1]
    assert np.isfinite(seen.steps[0].stats_KS[:, L2]).all()


def test_attached_between_forward_and_backward_says_so(tmp_path):
    net, opt = make()
    x, y = batch()
    loss = F.cross_entropy(net(x), y) * float("nan")
    with watching(net, tmp_path) as seen:
        loss.backward()
        opt.step()
    assert seen.incident.replay.verdict == "failed"
    assert "middle of the step" in seen.incident.replay.error
    assert seen.incident.origin is None


def test_validation_in_between_is_not_part_of_the_step(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        for _i in range(3):
            step(net, opt)
            net.eval()
            with torch.no_grad():
                F.cross_entropy(net(torch.full((4, 4), float("nan"))), torch.zeros(4, dtype=torch.long))
            net.train()
    assert len(seen.steps) == 3
    assert not seen.trips


def test_new_parameters_get_rows(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        step(net, opt)
        head = nn.Linear(2, 2)
        net.append(head)
        opt.add_param_group({"params": head.parameters()})
        for _ in range(20):
            step(net, opt)
    assert "4.weight" in seen.names.names
    assert seen.steps[-1].stats_KS.shape[0] == 6


def test_one_trip_an_onset_and_a_second_after_recovery(tmp_path):
    net = nn.Linear(2, 1, bias=False)
    opt = torch.optim.SGD(net.parameters(), lr=0.0)
    with watching(net, tmp_path, policy="skip") as seen:
        for i in range(60):
            x = torch.ones(3, 2) * (float("nan") if i in (3, 4, 5, 40) else 1.0)
            opt.zero_grad()
            net(x).mean().backward()
            opt.step()
    assert [i.step for i in seen.incidents] == [3, 40]
    assert [f[2] for f in seen.folds] == [False]


def test_skip_leaves_parameters_and_state_as_they_were(tmp_path):
    net = nn.Linear(2, 1)
    opt = torch.optim.Adam(net.parameters(), lr=0.1, weight_decay=0.1)
    with watching(net, tmp_path, policy="skip") as seen:
        net(torch.ones(3, 2)).mean().backward()
        opt.step()
        before = [p.detach().clone() for p in net.parameters()]
        state = {k: v.clone() for k, v in opt.state[net.weight].items()}
        opt.zero_grad()
        net(torch.full((3, 2), float("inf"))).mean().backward()
        gradient = net.weight.grad
        opt.step()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert all(torch.equal(v, opt.state[net.weight][k]) for k, v in state.items())
    assert net.weight.grad is gradient, "the gradient is given back"
    assert seen.steps[-1].update_skipped


@pytest.mark.parametrize("order", ["ours last", "theirs last"])
def test_patches_are_given_back_in_any_order(tmp_path, order):
    net, opt = make()
    original = torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad, torch.amp.GradScaler.scale
    calls = []
    with watching(net, tmp_path) as seen:
        ours = torch.Tensor.backward
        if order == "theirs last":

            def theirs(*args, **kwargs):
                calls.append(1)
                return ours(*args, **kwargs)

            torch.Tensor.backward = theirs
        step(net, opt)
    if order == "theirs last":
        step(net, opt)
        assert len(calls) == 2
        torch.Tensor.backward = original[0]
    assert len(seen.steps) == 1, "nothing is observed after detach"
    assert (torch.Tensor.backward, torch.autograd.backward, torch.autograd.grad, torch.amp.GradScaler.scale) == original
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
    assert not sys.modules["torch.optim.optimizer"]._global_optimizer_pre_hooks
    assert torch._C._len_torch_function_stack() == 0


def test_only_the_called_modules_keep_hooks(tmp_path):
    net, opt = make()
    with watching(net, tmp_path):
        step(net, opt)
        assert net._forward_hooks
        assert not any(m._forward_hooks for m in net.children())


def test_a_users_function_mode_survives(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        x, y = batch()
        with torch.device("cpu"):
            out = net(x)
        loss = F.cross_entropy(out, y)
        with torch.device("cpu"):
            loss.backward()
        opt.step()
    assert torch._C._len_torch_function_stack() == 0
    assert math.isfinite(seen.steps[0].loss)


def test_an_exception_in_forward_does_not_blind_the_probes(tmp_path):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x, fail):
            if fail:
                raise RuntimeError("the user's own")
            return self.fc(x)

    net = Sometimes()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with watching(net, tmp_path) as seen:
        for i in range(6):
            x, y = batch()
            try:
                out = net(x, i == 2)
            except RuntimeError:
                continue
            F.cross_entropy(torch.log(out * (i != 4)) if i == 4 else out, y).backward()
            opt.step()
    assert seen.incident.origin.op == "aten::log"


def test_steps_made_by_hand_are_counted(tmp_path):
    net = nn.Linear(4, 2)
    with watching(net, tmp_path) as seen:
        for i in range(4):
            x, y = batch()
            loss = F.cross_entropy(net(x * (float("nan") if i == 2 else 1)), y)
            loss.backward()
            with torch.no_grad():
                for p in net.parameters():
                    p.sub_(0.1 * p.grad)
                    p.grad = None
    assert [r.step for r in seen.steps] == [0, 1, 2]
    assert seen.incident.step == 2


def test_an_evaluation_with_gradients_on_holds_no_batches(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        step(net, opt)
        batches = []
        for _ in range(50):
            x, y = batch()
            batches.append(weakref.ref(x))
            F.cross_entropy(net(x), y).item()
        del x, y
        assert sum(ref() is not None for ref in batches) <= 6
        step(net, opt)
        assert not seen.probes.recorder.overflowed
    assert not seen.trips


def test_a_capture_is_made_while_an_incident_is_open(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        for i in range(4):
            x, y = batch()
            F.cross_entropy(net(x * float("nan")), y).backward()
            opt.step()
            if i == 1:
                seen.probes.tripwire.capture_reason = "still?"
    assert [i.kind for i in seen.incidents] == ["nonfinite", "capture"]
    assert seen.incidents[1].reason == "still?"


def test_many_steps_hold_one_batch(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        batches = []
        for _ in range(30):
            x, y = batch()
            batches.append(weakref.ref(x))
            opt.zero_grad()
            F.cross_entropy(net(x), y).backward()
            opt.step()
        del x, y
        assert sum(ref() is not None for ref in batches) <= 2
        assert len(seen.probes.recorder._made) < 20

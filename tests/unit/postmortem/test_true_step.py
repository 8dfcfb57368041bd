"""With a shadow, a fault of the optimizer's step is located by running that very step again."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from watching import watching

from nanwatch.bundle.tensors import load_tensors

MUCH = 1 << 28


class Watched:
    """What a small training left behind."""

    def __init__(self, folder, seen, before, net):
        self.incident = seen.incidents[0]
        self.before = before
        self.net = net
        self.bundle = folder / "incidents" / self.incident.id

    def member(self, name):
        tree = json.loads((self.bundle / "state/tree.json").read_text())[name]["tree"]
        return load_tensors(self.bundle / f"state/{name}.safetensors", tree)


def run(folder, optimizer, *, prepare, dtype=torch.float32, steps=3, after=0, shadow_bytes=MUCH):
    """Train; `prepare(net, opt)` makes the last of `steps` go wrong."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3, dtype=dtype), nn.Linear(3, 2, bias=False, dtype=dtype))
    opt = optimizer(net.parameters())
    before = {}
    with watching(net, folder, shadow_bytes=shadow_bytes) as seen:
        for i in range(steps + after):
            opt.zero_grad()
            net(torch.rand(2, 4).to(dtype)).float().sum().backward()
            if i == steps - 1:
                prepare(net, opt)
                before["parameters"] = {n: p.detach().clone() for n, p in net.named_parameters()}
                state = opt.state.get(net[0].weight, {})
                before["state"] = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in state.items()}
            opt.step()
    return Watched(folder, seen, before, net)


def dead_gradient(net, opt):
    """No gradient and no second moment: with eps = 0 the update is 0 / 0."""
    for p in net.parameters():
        p.grad.zero_()
        for name in ("exp_avg", "exp_avg_sq"):
            opt.state[p][name].zero_()


def infinite_lr(net, opt):
    opt.param_groups[0]["lr"] = float("inf")


ADAM = {
    "plain": ({}, "aten::addcdiv_"),
    "foreach": ({"foreach": True}, "aten::_foreach_addcdiv_"),
    "fused": ({"fused": True}, "aten::_fused_adam_"),
}


@pytest.mark.parametrize("name", ADAM)
def test_adam_without_eps_bit_for_bit_from_the_true_values(tmp_path, name):
    settings, op = ADAM[name]
    got = run(tmp_path, lambda p: torch.optim.Adam(p, lr=1e-3, eps=0.0, **settings), prepare=dead_gradient)
    origin = got.incident.origin
    assert (origin.phase, origin.op, origin.param, got.incident.cause.label) == (
        "optimizer", op, "0.weight", "optimizer_eps",
    )  # fmt: skip
    assert (got.incident.replay.verdict, got.incident.replay.bitwise) == ("reproduced", True)
    assert got.incident.scope == ()
    assert origin.code == "opt.step()"


def test_adam_in_float16_whose_eps_is_zero_there(tmp_path):
    """1e-8 is 0 in float16."""
    got = run(tmp_path, lambda p: torch.optim.Adam(p, eps=1e-8), prepare=dead_gradient, dtype=torch.float16)
    assert got.incident.cause.label == "optimizer_eps"
    assert (got.incident.replay.verdict, got.incident.replay.bitwise) == ("reproduced", True)
    assert got.incident.scope == ()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adagrad])
def test_a_learning_rate_that_is_not_finite(tmp_path, optimizer):
    got = run(tmp_path, lambda p: optimizer(p, lr=1e-3), prepare=infinite_lr)
    assert (got.incident.origin.phase, got.incident.cause.label) == ("optimizer", "nonfinite_lr")
    assert (got.incident.replay.verdict, got.incident.replay.bitwise) == ("reproduced", True)


def test_a_fault_in_the_first_step_starts_without_state(tmp_path):
    got = run(
        tmp_path, lambda p: torch.optim.Adam(p, eps=0.0), steps=1,
        prepare=lambda net, opt: [p.grad.zero_() for p in net.parameters()],
    )  # fmt: skip
    assert got.incident.cause.label == "optimizer_eps"
    assert got.incident.replay.bitwise
    assert got.member("optimizer")["state"] == {}


def test_the_bundle_holds_parameters_and_state_from_before_the_step(tmp_path):
    got = run(tmp_path, lambda p: torch.optim.Adam(p, lr=1e-3, eps=0.0), prepare=dead_gradient)
    kept = got.member("parameters")
    assert kept.keys() == got.before["parameters"].keys()
    assert all(torch.equal(kept[n], v) for n, v in got.before["parameters"].items())
    optimizer = got.member("optimizer")
    assert optimizer["parameter"] == "0.weight"
    assert all(torch.equal(optimizer["state"][k], v) for k, v in got.before["state"].items())
    assert float(optimizer["state"]["step"]) == 2
    # without a shadow nothing is left of it but what the step made
    without = run(
        tmp_path / "without", lambda p: torch.optim.Adam(p, lr=1e-3, eps=0.0), prepare=dead_gradient, shadow_bytes=None
    )
    assert not without.member("parameters")["0.weight"].isfinite().all()
    assert "stand-in" in without.incident.scope[0]
    assert not without.incident.replay.bitwise


def test_the_training_goes_on_from_what_the_step_left(tmp_path):
    """Nothing is restored for good: not the parameters, not the state, not their versions."""

    def optimizer(p):
        return torch.optim.Adam(p, lr=1e-3, eps=0.0)

    with_shadow = run(tmp_path / "a", optimizer, prepare=dead_gradient, after=2)
    without = run(tmp_path / "b", optimizer, prepare=dead_gradient, after=2, shadow_bytes=None)
    for p, q in zip(with_shadow.net.parameters(), without.net.parameters(), strict=True):
        assert p.isnan().any()
        assert torch.equal(p.view(torch.int32), q.view(torch.int32))
        assert p._version == q._version


class Coupled(torch.optim.Optimizer):
    """The step of a parameter depends on all of them, and the parameters are held in a list of its own as well."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})
        self.all = [p for g in self.param_groups for p in g["params"]]

    @torch.no_grad()
    def step(self, closure=None):
        norm = torch.stack([p.grad.norm() for p in self.all]).norm()
        for p in self.all:
            p.sub_(self.param_groups[0]["lr"] * (p.grad / norm).sin() * 1.25)


def test_a_step_that_depends_on_all_parameters_is_run_for_all(tmp_path):
    got = run(tmp_path, Coupled, prepare=lambda net, opt: [p.grad.zero_() for p in net.parameters()])
    assert (got.incident.origin.op, got.incident.cause.label) == ("aten::div", "division_by_zero")
    assert (got.incident.replay.verdict, got.incident.replay.bitwise) == ("reproduced", True)
    assert got.incident.origin.function == "step"


class Wrapper(torch.optim.Optimizer):
    def __init__(self, params):
        super().__init__(params, {"rho": 0.05})
        self.base = torch.optim.Adam(self.param_groups, eps=0.0)

    @torch.no_grad()
    def step(self, closure=None):
        self.base.step()


@pytest.mark.parametrize("shadow_bytes", [MUCH, None])
def test_the_optimizer_inside_a_wrapper_is_left_alone(tmp_path, shadow_bytes):
    steps = []

    def prepare(net, opt):
        for p in net.parameters():
            p.grad.zero_()
            opt.base.state[p]["exp_avg"].zero_()
            opt.base.state[p]["exp_avg_sq"].zero_()
        steps.append(opt.base.state[net[0].weight]["step"])

    got = run(tmp_path, Wrapper, prepare=prepare, shadow_bytes=shadow_bytes)
    assert got.incident.origin.op == "aten::addcdiv_"
    assert got.incident.replay.bitwise == (shadow_bytes is not None)
    assert float(steps[0]) == 3, "the post-mortem has not stepped it"


def test_a_step_that_needs_its_closure_says_so_and_keeps_the_parameters(tmp_path):
    net = nn.Linear(4, 2)
    opt = torch.optim.LBFGS(net.parameters(), lr=1.0, max_iter=1)
    before = {}

    def closure():
        opt.zero_grad()
        loss = net(torch.ones(2, 4)).pow(2).mean()
        loss.backward()
        return loss

    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        opt.step(closure)
        before.update({n: p.detach().clone() for n, p in net.named_parameters()})
        opt.param_groups[0]["lr"] = float("inf")
        opt.step(closure)
    got = Watched(tmp_path, seen, before, net)
    assert (got.incident.origin.phase, got.incident.replay.verdict) == ("optimizer", "failed")
    assert "old_dirs" in got.incident.scope[0]
    assert all(torch.equal(got.member("parameters")[n], v) for n, v in before.items())


@pytest.mark.parametrize("shadow_bytes", [MUCH, None])
def test_bad_gradients_of_an_optimizer_inside_the_backward(tmp_path, shadow_bytes):
    """They are seen when the parameters have been updated with them: the replay starts from those before."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizers = {p: torch.optim.SGD([p], lr=0.1) for p in net.parameters()}

    def update(p):
        optimizers[p].step()
        p.grad = None

    for p in net.parameters():
        p.register_post_accumulate_grad_hook(update)
    with watching(net, tmp_path, shadow_bytes=shadow_bytes) as seen:
        for i in range(4):
            before = {n: p.detach().clone() for n, p in net.named_parameters()}
            x = torch.zeros(2, 4) if i == 3 else torch.rand(2, 4) + 0.5
            out = net(x)
            loss = out.pow(2).mean() + (x * net[0].weight[0, 0]).abs().sqrt().sum()
            loss.backward()
    got = Watched(tmp_path, seen, before, net)
    assert got.incident.seen.where == "grad"
    assert (got.incident.step, got.incident.origin.phase) == ((3, "backward") if shadow_bytes else (3, "params"))
    if shadow_bytes:
        assert got.incident.replay.verdict == "reproduced"
        assert got.incident.replay.bitwise
        assert got.incident.cause.label == "sqrt_zero_grad"
        assert all(torch.equal(got.member("parameters")[n], v) for n, v in before.items())
    assert not net[0].weight.isfinite().all()


@pytest.mark.parametrize("settings", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("set_to_none", [True, False])
def test_a_fault_of_the_step_that_shows_in_the_next_loss(tmp_path, settings, set_to_none):
    """The probes take the model to be on a device, where parameters are looked at every tenth step only."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    opt = torch.optim.Adam(net.parameters(), eps=0.0, **settings)
    before = {}
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        seen.probes.watched.on_device = True
        for i in range(6):
            opt.zero_grad(set_to_none=set_to_none)
            net(torch.rand(6, 4)).pow(2).mean().backward()
            if i == 3:
                before.update({n: p.detach().clone() for n, p in net.named_parameters()})
                net[0].bias.grad[2] = 0
                opt.state[net[0].bias]["exp_avg"][2] = 0
                opt.state[net[0].bias]["exp_avg_sq"][2] = 0
            opt.step()
    got = Watched(tmp_path, seen, before, net)
    o = got.incident.origin
    assert (got.incident.step, o.phase, o.param, o.code) == (3, "optimizer", "0.bias", "opt.step()")
    assert got.incident.seen.where == "loss"
    assert all(torch.equal(got.member("parameters")[n], v) for n, v in before.items())
    if set_to_none:
        assert got.incident.cause.label == "optimizer_eps"
        assert (got.incident.replay.verdict, got.incident.replay.bitwise) == ("reproduced", True)
    else:
        assert (got.incident.replay.verdict, o.op) == ("failed", None)
        assert "overwritten" in got.incident.replay.error


def test_a_parameter_that_the_program_spoils_is_no_fault_of_the_step(tmp_path):
    torch.manual_seed(0)
    net = nn.Linear(4, 2)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        seen.probes.watched.on_device = True
        for i in range(4):
            opt.zero_grad()
            net(torch.rand(6, 4)).pow(2).mean().backward()
            opt.step()
            if i == 2:
                with torch.no_grad():
                    net.weight[0, 0] = float("nan")
        spoilt = net.weight.detach().clone()
    got = Watched(tmp_path, seen, {}, net)
    assert (got.incident.step, got.incident.origin.phase, got.incident.replay.verdict) == (3, "params", "reproduced")
    assert "something else has written it" in got.incident.scope[-1]
    assert got.member("parameters")["weight"].isnan().sum() == 1
    assert spoilt[0].isnan().all(), "the training goes on with what it had"

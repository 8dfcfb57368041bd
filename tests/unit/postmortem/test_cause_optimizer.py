"""The cause of a parameter that the optimizer's own step made non-finite."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from watching import watching


def incident_of(folder, optimizer, *, prepare=None, dtype=torch.float32, gradient=1.0, steps=1):
    """`prepare(weight, optimizer)` runs before the last step."""
    net = nn.Linear(4, 3, bias=False, dtype=dtype)
    opt = optimizer(net.parameters())
    with watching(net, folder) as seen:
        for i in range(steps):
            opt.zero_grad()
            (net(torch.ones(2, 4, dtype=dtype)) * gradient).float().sum().backward()
            if prepare is not None and i == steps - 1:
                prepare(net.weight, opt)
            opt.step()
    incident = seen.incidents[0]
    assert incident.origin.phase == "optimizer"
    assert incident.origin.param == "weight"
    return incident


def no_gradient(weight, opt):
    weight.grad.zero_()


def negative_variance(weight, opt):
    opt.state[weight]["exp_avg_sq"].fill_(-1.0)


class Ratio(torch.optim.Optimizer):
    """No eps to speak of."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                ratio = p.norm() / p.grad.norm()
                p.sub_(group["lr"] * ratio * p.grad)


ADAM = [
    ("plain", {}, "aten::addcdiv_"),
    ("foreach", {"foreach": True}, "aten::_foreach_addcdiv_"),
    ("fused", {"fused": True}, "aten::_fused_adamw_"),
]


@pytest.mark.parametrize(("name", "how", "op"), ADAM, ids=[a[0] for a in ADAM])
def test_adam_without_eps_names_what_was_called(tmp_path, name, how, op):
    incident = incident_of(tmp_path, lambda p: torch.optim.AdamW(p, eps=0, **how), prepare=no_gradient)
    assert (incident.origin.op, incident.cause.label) == (op, "optimizer_eps")
    assert "eps = 0.0" in incident.cause.why[0]


@pytest.mark.parametrize("how", [{}, {"foreach": True}])
def test_a_negative_second_moment_is_no_learning_rate(tmp_path, how):
    incident = incident_of(tmp_path, lambda p: torch.optim.AdamW(p, lr=1e-3, **how), prepare=negative_variance, steps=3)
    assert "sqrt" in incident.origin.op
    assert incident.cause.label == "invalid_domain"


def test_eps_that_is_zero_in_float16(tmp_path):
    incident = incident_of(tmp_path, lambda p: torch.optim.Adam(p, eps=1e-8), dtype=torch.float16, prepare=no_gradient)
    assert incident.cause.label == "optimizer_eps"
    assert "is 0 in float16" in incident.cause.why[0]


def test_an_optimizer_of_ones_own_is_named_by_its_line(tmp_path):
    incident = incident_of(tmp_path, Ratio, prepare=no_gradient)
    assert (incident.origin.op, incident.cause.label) == ("aten::div", "division_by_zero")
    assert incident.origin.code == "ratio = p.norm() / p.grad.norm()"
    assert [f.function for f in incident.origin.stack[:2]] == ["step", "incident_of"]
    assert not any("eps" in why for why in incident.cause.why)


def test_a_gradient_at_the_end_of_its_type(tmp_path):
    incident = incident_of(tmp_path, torch.optim.Adafactor, gradient=3e25)
    assert incident.cause.label == "exploding_gradient"


def test_a_learning_rate_that_dwarfs_the_parameter(tmp_path):
    incident = incident_of(tmp_path, lambda p: torch.optim.SGD(p, lr=1e38), gradient=100.0)
    assert incident.cause.label == "lr_too_high", incident.cause


def test_decay_that_turns_into_growth(tmp_path):
    def grown(weight, opt):
        with torch.no_grad():
            weight.fill_(30_000)

    incident = incident_of(
        tmp_path, lambda p: torch.optim.AdamW(p, lr=1.0, weight_decay=100.0), dtype=torch.float16, prepare=grown
    )
    assert incident.cause.label == "lr_too_high", (incident.origin, incident.cause)


def test_a_bound_of_infinity_is_no_learning_rate(tmp_path):
    class Bounded(Ratio):
        def __init__(self, params):
            super().__init__(params)
            self.param_groups[0]["most"] = float("inf")

    assert incident_of(tmp_path, Bounded, prepare=no_gradient).cause.label == "division_by_zero"


def test_a_nan_is_never_called_a_learning_rate(tmp_path):
    class Strange(torch.optim.Optimizer):
        def __init__(self, params):
            super().__init__(params, {"lr": 0.1})

        @torch.no_grad()
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                p.copy_(torch.full_like(p, float("nan")))

    incident = incident_of(tmp_path, Strange)
    assert incident.cause.label == "unknown"

"""The cause of a gradient that goes bad while the loss is finite: it names the forward operation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_programs import incident_of, with_row
from torch.utils.checkpoint import checkpoint

ZERO = with_row(0.0)


def gate(x):
    """1 for an ordinary row, 0 for row 3."""
    return x.sum(1, keepdim=True).sign()


def gated(h, x):
    return h * gate(x)


class Wrong(torch.autograd.Function):
    @staticmethod
    def forward(ctx, h, g):
        ctx.save_for_backward(g)
        return h * g

    @staticmethod
    def backward(ctx, incoming):
        return incoming / ctx.saved_tensors[0], None


def hooked(h, x):
    out = h * 1.0
    out.register_hook(lambda g: g / gate(x))
    return out


def recurrent(h, x):
    for _ in range(60):
        h = torch.sin(h @ (30 * torch.eye(8)))
    return h


def kept(x, value, other=0.0):
    """The choice of a value where the row is ordinary."""
    return torch.where(gate(x) > 0, value, other)


BACKWARD = {
    # roots
    "sqrt": (lambda h, x: gated(h, x).abs().sqrt(), "aten::sqrt", "sqrt_zero_grad"),
    "sqrt_of_a_sum": (lambda h, x: gated(h, x).pow(2).sum(1).sqrt(), "aten::sqrt", "sqrt_zero_grad"),
    "hypot": (lambda h, x: torch.hypot(gated(h, x), gated(h, x)), "aten::hypot", "sqrt_zero_grad"),
    "pow_half": (lambda h, x: gated(h, x).abs() ** 0.5, "aten::pow", "pow_zero_grad"),
    "pow_tensor": (lambda h, x: gated(h, x).abs() ** (0.3 + 0 * x[:, :1]), "aten::pow", "pow_zero_grad"),
    # what is chosen afterwards
    "where_log": (lambda h, x: kept(x, gated(h, x).abs().log()), "aten::log", "where_gradient"),
    "where_div_of_tensors": (lambda h, x: kept(x, h / gated(h, x)), "aten::div", "where_gradient"),
    "where_acos": (
        lambda h, x: kept(x, torch.acos(0.1 * h.sigmoid() + 1 - gate(x)), 1.0), "aten::acos", "where_gradient",
    ),
    "masked_fill": (
        lambda h, x: gated(h, x).abs().log().masked_fill(gate(x) == 0, 0.0), "aten::log", "where_gradient",
    ),
    "index": (lambda h, x: gated(h, x).abs().log()[gate(x)[:, 0] > 0], "aten::log", "where_gradient"),
    "nan_to_num": (
        lambda h, x: (gated(h, x) / gated(h, x)).nan_to_num(0.0), "aten::div", "where_gradient",
    ),
    # divisions, logarithms
    "log_kept_away_by_clamp": (lambda h, x: gated(h, x).abs().log().exp(), "aten::log", "log_of_zero"),
    "tiny_divisor": (lambda h, x: 1e-30 / (gated(h, x) + 1e-25), "aten::reciprocal", "division_by_zero"),
    "tiny_divisor_of_a_tensor": (
        lambda h, x: (h * 0 + 1) / (gated(h, x) * 1e10 + 1e-25), "aten::div", "division_by_zero",
    ),
    "tiny_rsqrt": (lambda h, x: (gated(h, x).abs() + 1e-30).rsqrt(), "aten::rsqrt", "division_by_zero"),
    # ends of where a function is defined
    "acos": (lambda h, x: torch.acos(gated(h, x) * 0.1 + 1 - gate(x)), "aten::acos", "invalid_domain"),
    "asin": (lambda h, x: torch.asin(gated(h, x) * 0.1 + 1 - gate(x)), "aten::asin", "invalid_domain"),
    "acosh": (lambda h, x: torch.acosh(gated(h, x).abs() + 1), "aten::acosh", "invalid_domain"),
    # linear algebra
    "eigh": (
        lambda h, x: torch.linalg.eigh(torch.eye(3) + 0 * h[:3, :3])[1].sum(), "aten::_linalg_eigh",
        "degenerate_linalg",
    ),
    "svd": (
        lambda h, x: torch.linalg.svd(torch.eye(3) + 0 * h[:3, :3])[0].abs().sum(), "aten::_linalg_svd",
        "degenerate_linalg",
    ),
    # code of one's own
    "custom_function": (lambda h, x: Wrong.apply(h, gate(x)), "aten::div", "custom_function_bug"),
    "hook": (hooked, "aten::div", "division_by_zero"),
    # checkpoints keep nothing that can be read twice
    "checkpoint": (
        lambda h, x: checkpoint(lambda a: a.abs().sqrt(), gated(h, x), use_reentrant=False), "aten::sqrt",
        "sqrt_zero_grad",
    ),
    "reentrant_checkpoint": (
        lambda h, x: checkpoint(lambda a: a.abs().sqrt(), gated(h, x), use_reentrant=True), "aten::sqrt",
        "sqrt_zero_grad",
    ),
    # growth
    "large_factor": (lambda h, x: 1000 * torch.sin(h * 1e38), "aten::mul", "exploding_gradient"),
    "recurrence": (recurrent, "aten::mm", "exploding_gradient"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BACKWARD)
def test_backward(tmp_path, name):
    function, op, label = BACKWARD[name]
    incident = incident_of(tmp_path, function, ZERO)
    said = f"{incident.origin}\n{incident.cause}"
    assert incident.origin.phase == "backward", said
    assert (incident.origin.op, incident.cause.label) == (op, label), said


KEPT_OUT_OF_THE_LOSS = {
    "div": (lambda h, x: kept(x, 1 / gated(h, x)), "aten::reciprocal", "division_by_zero"),
    "exp": (lambda h, x: torch.where(gate(x) == 0, (200 * gate(x) + h).exp(), 0.0), "aten::exp", "overflow_exp"),
}


@pytest.mark.parametrize("name", KEPT_OUT_OF_THE_LOSS)
def test_an_infinity_of_the_forward_pass_that_only_the_gradient_sees(tmp_path, name):
    function, op, label = KEPT_OUT_OF_THE_LOSS[name]
    incident = incident_of(tmp_path, function, ZERO)
    assert (incident.origin.phase, incident.origin.op, incident.cause.label) == ("forward", op, label)
    assert any("not out of the gradient" in why for why in incident.cause.why)
    assert any("Mask the input as well" in fix for fix in incident.cause.fix)


def test_a_gradient_that_float16_cannot_hold(tmp_path):
    incident = incident_of(
        tmp_path, lambda h, x: h * 100, dtype=torch.float16, loss=lambda out: (out.float() * 2e4).sum()
    )
    assert (incident.origin.phase, incident.cause.label) == ("backward", "overflow_low_precision"), incident.cause


def test_an_absurd_target_is_a_label(tmp_path):
    labels = torch.zeros(6, 8)
    labels[2] = 1e30
    incident = incident_of(tmp_path, lambda h, x: h, loss=lambda out: F.mse_loss(out, labels))
    assert incident.cause.label == "bad_label"
    assert "1e+30" in incident.cause.why[0]


def test_a_target_that_is_nan_and_left_out_too_late(tmp_path):
    target = torch.zeros(6, 8)
    target[3, 1] = float("nan")

    def loss(out):
        error = F.mse_loss(out, target, reduction="none")
        return error[~target.isnan()].mean()

    incident = incident_of(tmp_path, lambda h, x: h, loss=loss)
    assert (incident.origin.phase, incident.cause.label, incident.origin.batch_rows) == ("data", "bad_label", (3,))

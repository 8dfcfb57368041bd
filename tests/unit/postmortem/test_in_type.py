"""A program in a wider type is the same program: the same random numbers, the same gradients but for the rounding."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nanwatch.postmortem.in_type import InType


def run(function, dtype, x):
    torch.manual_seed(3)
    x = x.to(dtype).requires_grad_()
    with InType(dtype):
        out = function(x)
        (gradient,) = torch.autograd.grad(out.sum(), x)
    return out, gradient, torch.get_rng_state()


def plain(function, x):
    torch.manual_seed(3)
    x = x.clone().requires_grad_()
    out = function(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    return out, gradient, torch.get_rng_state()


def scattered(x):
    out = torch.zeros(8, 4)
    out.index_put_((torch.tensor([1, 3]),), x[:2])
    out[4:6] += x[2:4].float()
    return out.index_add(0, torch.tensor([0]), x[:1]) + torch.tensor(0.25)


PROGRAMS = {
    "dropout": lambda x: F.dropout(x, 0.5),
    "noise": lambda x: x * torch.randn(6, 4) + torch.rand_like(x) + torch.zeros(6, 4).normal_(),
    "casts": lambda x: (x.float() * 2).to(torch.float32).type(torch.float32) @ torch.ones(4, 4),
    "scatter": scattered,
    "inner autocast": lambda x: torch.autocast("cpu", dtype=torch.bfloat16)(lambda: x @ x.t())().float(),
    "own table": lambda x: F.embedding(torch.tensor([0, 1]), torch.eye(4)) @ x.t(),
    "softmax in a type": lambda x: F.softmax(x, 1, dtype=torch.float32).sum(1, dtype=torch.float32),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_float64(name):
    x = torch.linspace(0.1, 2.0, 24).reshape(6, 4)
    out, gradient, rng = run(PROGRAMS[name], torch.float64, x)
    expected, expected_gradient, expected_rng = plain(PROGRAMS[name], x)
    tolerance = 0.1 if name == "inner autocast" else 1e-5
    assert out.dtype == gradient.dtype == torch.float64
    torch.testing.assert_close(out.float(), expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(gradient.float(), expected_gradient, rtol=tolerance, atol=tolerance)
    assert torch.equal(rng, expected_rng)


def test_float32_leaves_float64_alone():
    with InType(torch.float32):
        assert (torch.ones(2, dtype=torch.float64) * 2).dtype == torch.float64
        assert torch.ones(2, dtype=torch.float16).dtype == torch.float32
        assert torch.ones(2, dtype=torch.complex32).dtype == torch.complex64
        assert torch.arange(3).dtype == torch.int64


def test_what_is_only_looked_at_differently_stays_as_it_is():
    x = torch.ones(2)
    with InType(torch.float64):
        assert x.view(torch.int32).dtype == torch.int32

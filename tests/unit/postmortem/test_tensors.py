"""What is said of one tensor, against the plain way of computing it."""

from __future__ import annotations

import itertools

import pytest
import torch

from nanwatch.postmortem.tensors import state_of, summarize

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e5m2]
VALUES = [float("nan"), float("inf"), float("-inf")]


def expected(tensor):
    real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    numbers = real.double().flatten()
    kept = numbers[numbers.isfinite()]
    state = "nan" if numbers.isnan().any() else "inf" if numbers.isinf().any() else "finite"
    low, high = (kept.min().item(), kept.max().item()) if len(kept) else (None, None)
    return state, low, high, len(numbers) - len(kept)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("size", [1, 3, 17, 5000])
def test_state_and_range(dtype, size):
    torch.manual_seed(size)
    for bad in [(), *((v,) for v in VALUES), *itertools.combinations(VALUES, 2), tuple(VALUES)]:
        numbers = torch.randn(size)
        for i, value in enumerate(bad):
            numbers[(i * 7) % size] = value
        tensor = numbers.to(dtype)
        said = summarize("x", tensor)
        assert (state_of(tensor), said.min, said.max, said.nonfinite) == expected(tensor), bad


def test_the_largest_number_is_a_number():
    tensor = torch.tensor([torch.finfo(torch.float32).max, float("nan")])
    assert (summarize("x", tensor).min, summarize("x", tensor).max) == (tensor[0].item(), tensor[0].item())


def test_all_bad_and_empty():
    assert summarize("x", torch.full((3,), float("nan"))).min is None
    assert summarize("x", torch.full((3,), float("inf"))).nonfinite == 3
    assert state_of(torch.empty(0)) == "finite"
    assert state_of(torch.tensor([1, 2])) == "finite"

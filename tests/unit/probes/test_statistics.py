from __future__ import annotations

import numpy as np
import pytest
import torch

from nanwatch.probes.statistics import count_nonfinite, measure, which_nonfinite
from nanwatch.records import STATISTICS

L2, MIN, MAX, SUM, ZEROS, NAN, POS, NEG = range(len(STATISTICS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_agrees_with_a_float64_reference(dtype):
    torch.manual_seed(0)
    gradients = [torch.randn(n).to(dtype) for n in (1, 7, 4097)]

    stats, bad = measure(gradients, count_zeros=True)

    assert bad == []
    for row, g in zip(stats, gradients, strict=True):
        wide = g.double()
        assert np.allclose(
            row[[L2, MIN, MAX, SUM]], [wide.norm(), wide.min(), wide.max(), wide.sum()], rtol=1e-3, atol=1e-3
        )
        assert row[ZEROS] == int((wide == 0).sum())


def test_a_missing_gradient_is_a_row_of_nan_and_not_bad():
    stats, bad = measure([None, torch.ones(3)], count_zeros=False)
    assert bad == []
    assert np.isnan(stats[0]).all()
    assert stats[1, L2] == pytest.approx(3**0.5)


def test_counts_are_exact_and_the_rest_describes_the_finite_elements():
    g = torch.tensor([1.0, float("nan"), float("inf"), float("-inf"), float("inf"), 0.0, -2.0])
    stats, bad = measure([torch.ones(2), g], count_zeros=False)
    assert bad == [1]
    assert stats[1].tolist() == pytest.approx([5**0.5, -2.0, 1.0, -1.0, 1.0, 1.0, 2.0, 1.0])


@pytest.mark.parametrize(("dtype", "value"), [(torch.float32, 1e30), (torch.float16, 6e4), (torch.bfloat16, 1e30)])
def test_a_norm_that_overflows_is_no_infinity_in_the_gradient(dtype, value):
    stats, bad = measure([torch.full((1000,), value).to(dtype)], count_zeros=False)
    assert bad == []
    assert np.isfinite(stats[0, [L2, MIN, MAX, SUM]]).all()


def test_negative_infinity_alone_is_found():
    _, bad = measure([torch.tensor([1.0, float("-inf")])], count_zeros=False)
    assert bad == [0]


def test_sparse_complex_empty_and_float8_gradients():
    sparse = torch.sparse_coo_tensor([[0, 2, 2]], [1.0, 2.0, 3.0], (4,), check_invariants=True)
    gradients = [sparse, torch.tensor([3 + 4j]), torch.zeros(0), torch.tensor([1.0, 2.0]).to(torch.float8_e4m3fn)]
    stats, bad = measure(gradients, count_zeros=False)
    assert bad == []
    assert stats[:, L2].tolist() == pytest.approx([26**0.5, 5.0, 0.0, 5**0.5])


def test_infinite_scalar_tensor_among_parameters_is_found():
    assert which_nonfinite([torch.ones(3), torch.tensor(float("inf")), torch.tensor([1, 2])]) == [1]


def test_a_sum_that_overflows_is_not_taken_for_an_infinity():
    assert which_nonfinite([torch.full((8,), 3e38)]) == []


def test_count_nonfinite_of_integers_is_zero():
    assert count_nonfinite(torch.arange(4)) == 0
    assert count_nonfinite(torch.tensor([float("nan"), 1.0, float("inf")])) == 2

"""What is refused before it reaches a CUDA kernel is what the CPU raises for, no more and no less."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanwatch.postmortem.device_asserts import why_device_asserts, why_out_of_range


class Compares(TorchDispatchMode):
    """Asks before each operation, and sees whether the CPU raises."""

    def __init__(self):
        super().__init__()
        self.refused, self.raised = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        if why_out_of_range(func, args, tensors) is not None:
            self.refused.append(func._schema.name)
        try:
            return func(*args, **(kwargs or {}))
        except (RuntimeError, IndexError):
            self.raised.append(func._schema.name)
            raise


X = torch.arange(12.0).reshape(4, 3) + 1
PROGRAMS = {
    "index": lambda i: X[torch.tensor([0, i])],
    "index after a mask": lambda i: X[:, torch.tensor([0, i - 1])],
    "index with a mask": lambda i: X[torch.tensor([True, False, True, False]), torch.tensor([0, i - 1])],
    "index_put": lambda i: X.clone().index_put_((torch.tensor([i]),), torch.ones(3)),
    "negative": lambda i: X[torch.tensor([-1 - i])],
    "index_select": lambda i: X.index_select(0, torch.tensor([i])),
    "index_add": lambda i: X.index_add(0, torch.tensor([i]), torch.ones(1, 3)),
    "gather": lambda i: X.gather(0, torch.tensor([[i, 0, 0]])),
    "scatter": lambda i: X.scatter(0, torch.tensor([[i, 0, 0]]), 1.0),
    "scatter_add": lambda i: X.scatter_add(0, torch.tensor([[i, 0, 0]]), torch.ones(1, 3)),
    "embedding": lambda i: F.embedding(torch.tensor([i]), X),
    "take": lambda i: X.take(torch.tensor([i * 3])),
    "cross entropy": lambda i: F.cross_entropy(X.t(), torch.tensor([0, i, 1])),
    "probabilities": lambda i: F.binary_cross_entropy(torch.full((2,), i / 3), torch.ones(2)),
    "weights": lambda i: torch.multinomial(torch.tensor([1.0, 3.0 - i]), 1),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("index", [3, 4])
def test_the_same_verdict_as_the_cpu(name, index):
    with Compares() as seen:
        try:
            PROGRAMS[name](index)
        except (RuntimeError, IndexError):
            assert index == 4
            assert seen.raised, "refused before any operation"
        else:
            assert index == 3, "the CPU takes it"
    assert bool(seen.refused) == (index == 4), (seen.refused, seen.raised)


def test_an_ignored_class_is_none():
    with Compares() as seen:
        F.cross_entropy(X, torch.tensor([0, -100, 1, 2]))
    assert not seen.refused


def test_on_the_cpu_nothing_is_looked_at():
    assert why_device_asserts(torch.ops.aten.index_select.default, (X, 0, torch.tensor([9])), {}) is None

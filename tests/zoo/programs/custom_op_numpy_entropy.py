"""A registered custom operator computes a histogram entropy in NumPy, with a gradient of its own; a bin of the batch's
histogram is empty, and 0 * log(0) is NaN where torch cannot see it.
"""

import numpy as np
import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "zoo::soft_entropy",
    "module": None,
    "step": 5,
    "cause": ("custom_function_bug", "log_of_zero", "unknown"),
}


@torch.library.custom_op("zoo::soft_entropy", mutates_args=())
def soft_entropy(usage: torch.Tensor) -> torch.Tensor:
    p = usage.numpy(force=True)
    with np.errstate(all="ignore"):
        return torch.tensor(-(p * np.log(p)).sum(), dtype=usage.dtype)


@soft_entropy.register_fake
def _(usage):
    return usage.new_empty(())


def keep(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])


def gradient(ctx, g):
    (p,) = ctx.saved_tensors
    return -g * (p.clamp(min=1e-6).log() + 1)


soft_entropy.register_autograd(gradient, setup_context=keep)


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.logits = nn.Linear(6, 4)
        self.values = nn.Linear(6, 4)

    def forward(self, x, temperature):
        gate = (self.logits(x) / temperature).softmax(-1)
        return (gate * self.values(x)).sum(-1), gate.mean(0)


def train(watch):
    torch.manual_seed(33)
    model = Router()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(5, 6)
        out, usage = model(x, temperature=1.0 if step < 5 else 1e-3)
        loss = (out - x[:, 0]).pow(2).mean() - 0.01 * soft_entropy(usage)  # ORIGIN
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A hand-written autograd function is safe in forward (it clamps the norm) and divides by the unclamped norm in
backward.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": ("UnitLength", "UnitLengthBackward", "aten::div"),
    "module": "unit",
    "step": 4,
    "rows": [0],
    "cause": ("custom_function_bug", "division_by_zero"),
}


class UnitLength(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        norm = x.norm(dim=-1, keepdim=True)
        y = x / norm.clamp(min=1e-6)
        ctx.save_for_backward(y, norm)
        return y

    @staticmethod
    def backward(ctx, grad):
        y, norm = ctx.saved_tensors
        return (grad - y * (grad * y).sum(-1, keepdim=True)) / norm  # ORIGIN


class Unit(nn.Module):
    def forward(self, x):
        return UnitLength.apply(x)  # ORIGIN


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 20, bias=False), nn.ReLU(), nn.Linear(20, 6, bias=False))
        self.unit = Unit()
        self.prototypes = nn.Linear(6, 4, bias=False)

    def forward(self, x):
        return self.prototypes(self.unit(self.body(x)))


def train(watch):
    torch.manual_seed(27)
    model = Embedder()
    optimizer = torch.optim.Adamax(model.parameters(), lr=2e-3)
    watch(model, optimizer)
    for step in range(7):
        x, y = torch.randn(5, 7), torch.randint(0, 4, (5,))
        if step == 4:
            x[0] = 0
        loss = F.cross_entropy(model(x) / 0.2, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

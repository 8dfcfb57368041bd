"""Gradients are brought to unit length by hand, tensor by tensor, between backward and step; a batch without a single
labelled sample has a gradient of exactly zero, and 0 / 0 is NaN.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "optimizer",
    "op": ("aten::div_", "aten::div"),
    "module": None,
    "step": 5,
    "cause": "division_by_zero",
}


def to_unit_length(parameters):
    for p in parameters:
        p.grad.div_(p.grad.norm())  # ORIGIN


def train(watch):
    torch.manual_seed(8)
    model = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(10, 5)
        labelled = torch.zeros(10) if step == 5 else (torch.rand(10) < 0.7).float()
        loss = (labelled * (model(x).squeeze(1) - x.sum(1)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            to_unit_length(model.parameters())
        optimizer.step()

"""Energies in pascals: gradients around 1e22 are finite, their squares are not. The norm is inf, clipping makes
the update zero or, by value, small."""

import torch
from torch import nn

EXPECT = None


class Surrogate(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 32), nn.ELU(), nn.Linear(32, 1))

    def forward(self, x, unit):
        return self.net(x).squeeze(-1) * unit


def train(watch):
    torch.manual_seed(14)
    model = Surrogate()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    watch(model, optimizer)
    for step in range(12):
        unit = 1e11 if step in (4, 5, 9) else 1.0
        x = torch.randn(16, 5)
        target = x.sum(-1) * unit
        loss = (model(x, unit) - target).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        if step == 9:
            nn.utils.clip_grad_value_(model.parameters(), 1.0)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(f"step {step} loss {loss.item():.3g} norm {norm.item():.3g}")

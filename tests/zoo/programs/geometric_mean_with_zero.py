"""Scores are combined by exp(mean(log)); a ReLU score of 0 makes the geometric mean 0, which is right, and its
gradient 0 / 0.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::log",
    "module": "combine",
    "step": 4,
    "rows": [2],
    "cause": ("log_of_zero", "division_by_zero"),
}


class GeometricMean(nn.Module):
    def forward(self, scores):
        return scores.log().mean(dim=-1).exp()  # ORIGIN


class Ensemble(nn.Module):
    def __init__(self, heads=3):
        super().__init__()
        self.heads = nn.ModuleList([nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1)) for _ in range(heads)])
        self.combine = GeometricMean()
        for head in self.heads:
            nn.init.constant_(head[-1].bias, 2.0)

    def forward(self, x, gate):
        return self.combine(torch.cat([h(x) for h in self.heads], dim=1).relu() * gate)


def train(watch):
    torch.manual_seed(45)
    model = Ensemble()
    optimizer = torch.optim.Rprop(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(6, 5)
        gate = torch.ones(6, 3)
        if step == 4:
            gate[2, 1] = 0.0
        loss = (model(x, gate) - x.abs().mean(1)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

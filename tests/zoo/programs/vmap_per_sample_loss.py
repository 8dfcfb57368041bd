"""Each sample's loss is written for one sample and vmapped; a spectrum without energy divides by its own sum of 0."""

import torch
from torch import nn
from torch.func import vmap

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 4,
    "rows": [3],
    "cause": "division_by_zero",
}


def spectral_angle(predicted, target):
    shape = target / target.sum()  # ORIGIN
    likely = torch.softmax(predicted, 0)
    return (shape - likely).abs().sum()


def train(watch):
    torch.manual_seed(50)
    model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    losses = vmap(spectral_angle)
    for step in range(7):
        x, target = torch.randn(8, 6), torch.rand(8, 10)
        if step == 4:
            target[3] = 0
        loss = losses(model(x), target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

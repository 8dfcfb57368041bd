"""The script calls sys.exit(1) when the loss is NaN: a mean over the positive pairs of a batch that has none."""

import sys

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::mean",
    "module": None,
    "step": 4,
    "cause": "empty_reduction",
    "raises": "SystemExit",
}


def contrastive(z, labels):
    distances = torch.cdist(z, z)
    same = (labels[:, None] == labels[None, :]) & ~torch.eye(len(z), dtype=torch.bool)
    different = labels[:, None] != labels[None, :]
    attract = distances[same].pow(2).mean()  # ORIGIN
    repel = (1.5 - distances[different]).clamp(min=0).pow(2).mean()
    return attract + repel


def train(watch):
    torch.manual_seed(41)
    model = nn.Sequential(nn.Linear(8, 16), nn.PReLU(), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watch(model, optimizer)
    for step in range(8):
        labels = torch.randperm(6) if step == 4 else torch.arange(6) % 3
        loss = contrastive(model(torch.randn(6, 8)), labels)
        if torch.isnan(loss):
            print(f"step {step}: loss is NaN, giving up", file=sys.stderr)
            sys.exit(1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

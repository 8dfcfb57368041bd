"""A loop with three guards of its own: an isfinite check, a NaN check on .item(), and an exception from the
model. Bad batches are dropped before backward; training goes on."""

import math

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Flow(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 12))

    def forward(self, x):
        shift, log_scale = self.net(x.flip(-1)).chunk(2, dim=-1)
        z = (x - shift) * log_scale.exp()
        if z.abs().max() > 1e4:
            raise FloatingPointError(f"latent out of range: {z.abs().max():.2e}")
        return z, log_scale.sum(-1)


def nll(model, x):
    z, log_det = model(x.log())  # zero readings: -inf
    return F.gaussian_nll_loss(z, torch.zeros_like(z), torch.ones_like(z)) - log_det.mean()


def train(watch):
    torch.manual_seed(12)
    model = Flow()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    losses, skipped = [], 0
    for step in range(18):
        x = torch.rand(16, 6) + 0.1
        if step in (3, 9):
            x[5, 2] = -1.0  # logarithm is NaN
        if step in (6, 7):
            x[1, 1] = 0.0  # logarithm is -inf: the model raises
        try:
            loss = nll(model, x)
        except FloatingPointError as error:
            print(f"step {step}: {error}")
            skipped += 1
            continue
        if step < 9 and not torch.isfinite(loss):
            skipped += 1
            continue
        value = loss.item()
        if math.isnan(value) or value > 1e6:
            skipped += 1
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(value)
    assert (skipped, len(losses)) == (4, 14)

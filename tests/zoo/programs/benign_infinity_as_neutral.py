"""Infinity as the neutral element: padded positions are inf for amin, and the observers' buffers start at inf and
-inf. Nothing is wrong.

One channel's observer is not fed before the ninth step: its buffers hold infinities for most of the run.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Range(nn.Module):
    """Remembers the smallest and largest value of every channel."""

    def __init__(self, channels):
        super().__init__()
        self.register_buffer("low", torch.full((channels,), torch.inf))
        self.register_buffer("high", torch.full((channels,), -torch.inf))

    @torch.no_grad()
    def update(self, x, channels):
        self.low[:channels] = torch.minimum(self.low[:channels], x.flatten(0, 1).amin(0)[:channels])
        self.high[:channels] = torch.maximum(self.high[:channels], x.flatten(0, 1).amax(0)[:channels])


class PointSet(nn.Module):
    def __init__(self):
        super().__init__()
        self.seen = Range(3)
        self.lift = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 32))
        self.head = nn.Linear(64, 5)

    def forward(self, points, mask, channels=2):
        self.seen.update(points, channels)
        x = self.lift(points)
        lowest = torch.where(mask[..., None], x, torch.inf).amin(dim=1)
        highest = x.masked_fill(~mask[..., None], -torch.inf).max(dim=1).values
        return self.head(torch.cat([lowest, highest], dim=-1))


def train(watch):
    torch.manual_seed(2)
    model = PointSet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    best = torch.tensor(torch.inf)
    watch(model, optimizer)
    for step in range(12):
        points = torch.randn(8, 20, 3)
        mask = torch.arange(20) < torch.randint(1, 21, (8, 1))
        loss = F.cross_entropy(model(points, mask, channels=3 if step >= 9 else 2), torch.randint(0, 5, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        best = torch.minimum(best, loss.detach())

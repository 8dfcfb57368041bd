"""Models that a second process can make: `factory:make`."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.norm, self.drop, self.out = (
            nn.Linear(4, 16),
            nn.BatchNorm1d(16),
            nn.Dropout(0.5),
            nn.Linear(16, 2),
        )

    def forward(self, x, *, scale):
        h = self.drop(torch.relu(self.norm(self.fc(x))))
        return {"logits": self.out(h) / scale.unsqueeze(1), "hidden": h}


def make():
    torch.manual_seed(99)  # other weights than the training's: they come from the bundle
    return Net()


def other():
    return nn.Linear(4, 2)


class Mixed(nn.Module):
    """Convolution, running statistics, dropout: what a replay has to put back to be exact."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.3)
        self.head = nn.Linear(8 * 36, 4)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu()).flatten(1))


def make_mixed():
    return Mixed()

"""Benign: statistics for a progress bar divide 0 by 0 under no_grad, inside the model and outside; nothing of it
reaches the loss.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Linear(6, 3)
        self.last_accuracy = None

    def forward(self, x):
        p = self.score(x).softmax(-1)
        with torch.no_grad():
            chosen = F.one_hot(p.argmax(-1), 3).float()
            per_expert = (chosen * p).sum(0) / chosen.sum(0)
            self.last_accuracy = per_expert.log().mean().item()
        return p


def train(watch):
    torch.manual_seed(51)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), Router())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    for _ in range(9):
        x, y = torch.randn(2, 4), torch.randint(0, 3, (2,))
        p = model(x)
        loss = F.nll_loss(p.clamp(min=1e-6).log(), y)
        right = (p.argmax(-1) == y).float()
        recall = right[y == 1].mean().item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert recall != 2.0

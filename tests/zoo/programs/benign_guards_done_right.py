"""Logarithms and roots at zero, each guarded the right way: a double where, xlogy, 0 * log(0) repaired on the
constant side, a clamp before the root."""

import torch
from torch import nn

EXPECT = None


def safe_log(x):
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, torch.ones_like(x)).log(), torch.zeros_like(x))


class Mixture(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.rates = nn.Linear(32, 6)
        self.weights = nn.Linear(32, 6)

    def forward(self, x):
        h = self.body(x)
        return self.rates(h).relu(), self.weights(h).softmax(-1)


def loss_of(rates, weights, counts, targets):
    log_rate = safe_log(rates)
    poisson = (rates - counts * log_rate).mean()
    # targets have exact zeros: 0 * -inf is NaN, and the term is zero
    negative_entropy = (targets * targets.log()).nan_to_num(0.0).sum(-1).mean()
    cross = torch.xlogy(targets, weights).sum(-1).mean()
    distance = (rates - counts).pow(2).sum(-1).clamp(min=1e-12).sqrt().mean()
    return poisson + (negative_entropy - cross) + 0.1 * distance


def train(watch):
    torch.manual_seed(4)
    model = Mixture()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for _ in range(12):
        x = torch.randn(16, 10)
        counts = torch.poisson(torch.full((16, 6), 0.7))
        targets = counts / counts.sum(-1, keepdim=True).clamp(min=1)
        loss = loss_of(*model(x), counts, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""Optimal transport by Sinkhorn in the plain domain: a far point's row of exp(-C / eps) underflows to 0, and a /
(K v) is infinite.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "transport",
    "step": 5,
    "rows": [4],
    "cause": "division_by_zero",
}


class Sinkhorn(nn.Module):
    def __init__(self, eps=0.1, iterations=8):
        super().__init__()
        self.eps, self.iterations = eps, iterations

    def forward(self, cost):
        kernel = torch.exp(-cost / self.eps)
        a, b = torch.full((len(kernel),), 1 / len(kernel)), torch.full((kernel.size(1),), 1 / kernel.size(1))
        v = torch.ones_like(b)
        for _ in range(self.iterations):
            u = a / (kernel @ v)  # ORIGIN
            v = b / (kernel.T @ u)
        return u[:, None] * kernel * v


class Matcher(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 2))
        self.transport = Sinkhorn()

    def forward(self, x, y):
        cost = ((x + 0.1 * self.embed(x))[:, None] - y).pow(2).sum(-1)
        return (self.transport(cost) * cost).sum()


def train(watch):
    torch.manual_seed(61)
    model = Matcher()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        x, y = torch.rand(8, 2), torch.rand(8, 2)
        if step == 5:
            x[4] = 9.0
        loss = model(x, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

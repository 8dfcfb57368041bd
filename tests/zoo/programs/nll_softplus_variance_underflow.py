"""Heteroscedastic regression: the variance is softplus(s); for an outlier s is below -104, softplus underflows to
0 and its log is -inf.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::log",
    "module": None,
    "step": 5,
    "rows": [6],
    "cause": "log_of_zero",
}


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 24), nn.ReLU())
        self.mean, self.spread = nn.Linear(24, 1), nn.Linear(24, 1)
        nn.init.uniform_(self.spread.weight, -0.4, -0.1)

    def forward(self, x):
        h = self.body(x)
        return self.mean(h).squeeze(1), F.softplus(self.spread(h)).squeeze(1)


def gaussian_nll(mean, variance, y):
    return 0.5 * (torch.log(variance) + (y - mean) ** 2 / variance)  # ORIGIN


def train(watch):
    torch.manual_seed(36)
    model = Regressor()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, amsgrad=True)
    watch(model, optimizer)
    for step in range(9):
        x = torch.randn(10, 5)
        if step == 5:
            x[6] = x[6].sign() * 500.0
        y = x.clamp(-3, 3).sum(1) + torch.randn(10)
        loss = gaussian_nll(*model(x), y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

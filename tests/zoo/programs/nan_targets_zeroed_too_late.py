"""Missing targets are NaN; the loss replaces the NaN *after* the square. The loss is finite, and the gradient of
the square is 0 * NaN."""

import torch
from torch import nn

EXPECT = {
    "phase": "data",
    "step": 5,
    "rows": [3],
    "cause": ("where_gradient", "bad_label"),
}


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(14, 32), nn.LeakyReLU(), nn.Linear(32, 3))

    def forward(self, x):
        return self.net(x)


def masked_mse(output, target):
    error = (output - target) ** 2
    error = torch.where(torch.isnan(target), torch.zeros_like(error), error)
    return error.sum() / (~torch.isnan(target)).sum()


def train(watch):
    torch.manual_seed(18)
    x, y = torch.randn(80, 14), torch.randn(80, 3)
    y[53, 1] = float("nan")
    model = Regressor()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for start in range(0, 80, 10):
        loss = masked_mse(model(x[start : start + 10]), y[start : start + 10])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

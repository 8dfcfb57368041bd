"""The very first and the very last batch of the run are bad: the first is dropped because its loss is not
finite, the last because the model raises. The program knows both; nothing bad is ever differentiated."""

import torch
from torch import nn

EXPECT = None


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(5, 20), nn.Tanh(), nn.Linear(20, 1))

    def forward(self, x):
        out = self.net(x)
        if not torch.isfinite(out).all():
            raise ValueError("forecast is not finite")
        return out


def scaled_error(forecast, target, naive):
    return ((forecast - target).abs() / naive).mean()


def train(watch):
    torch.manual_seed(42)
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = [(torch.randn(8, 5), torch.randn(8, 1), 0.5 + torch.rand(8, 1)) for _ in range(7)]
    batches[0][2][:] = 0  # no history yet
    batches[6][0][4, 1] = float("nan")
    watch(model, optimizer)
    for number, (x, target, naive) in enumerate(batches):
        try:
            loss = scaled_error(model(x), target, naive)
        except ValueError as e:
            print(number, e)
            continue
        if not torch.isfinite(loss):
            print(number, "skipped", loss.item())
            continue
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

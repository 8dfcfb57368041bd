"""Wind directions with a von Mises likelihood: log I0(kappa) is written as the log of the Bessel function, which
overflows above a concentration of about 90; the network is very sure in one hour.
"""

from dataclasses import dataclass

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": ("aten::i0", "aten::special_i0"),
    "module": None,
    "step": 4,
    "rows": [7],
    "cause": ("overflow_exp", "exploding_activation"),
}


@dataclass
class Wind:
    mean: torch.Tensor
    raw: torch.Tensor

    @property
    def concentration(self):
        return nn.functional.softplus(self.raw)

    def nll(self, direction):
        kappa = self.concentration
        return torch.log(torch.i0(kappa)) - kappa * torch.cos(direction - self.mean)  # ORIGIN


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(3, 16, batch_first=True)
        self.skip = nn.Linear(3, 2)
        self.head = nn.Linear(16, 2)

    def forward(self, history):
        h, _ = self.rnn(history)
        mean, raw = (self.head(h[:, -1]) + self.skip(history[:, -1])).unbind(-1)
        return Wind(mean, raw)


def hours(n):
    for hour in range(n):
        history = torch.randn(9, 12, 3)
        if hour == 4:
            history[7, -1] = torch.tensor([150.0, -90.0, 120.0])  # gust sensor in another unit
        yield history, torch.rand(9) * 6.28


def train(watch):
    torch.manual_seed(6)
    model = Forecaster()
    with torch.no_grad():
        model.skip.weight[1] = torch.tensor([0.3, -0.5, 0.4])
    optimizer = torch.optim.NAdam(model.parameters(), lr=2e-3)
    watch(model, optimizer)
    for history, direction in hours(7):
        loss = model(history).nll(direction).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

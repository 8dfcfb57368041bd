"""A sales forecaster ends in a ReLU and is trained by sMAPE, 2|y - f| / (|y| + |f|): a closed shop sells nothing, the
forecast is nothing too, and a perfect forecast is 0 / 0.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 5,
    "rows": [4],
    "cause": "division_by_zero",
}


class Shops(Dataset):
    def __init__(self, n, closed):
        g = torch.Generator().manual_seed(77)
        self.series = torch.rand(n, 18, generator=g) * 20 + 1
        self.series[closed] = 0.0

    def __len__(self):
        return len(self.series)

    def __getitem__(self, i):
        return {"past": self.series[i, :14], "future": self.series[i, 14:]}


class MLPForecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(14, 32, bias=False), nn.Linear(32, 4, bias=False)])

    def forward(self, past):
        for layer in self.layers:
            past = layer(past).abs() if layer is self.layers[-1] else torch.relu(layer(past))
        return past


def smape(forecast, truth):
    return (2 * (truth - forecast).abs() / (truth.abs() + forecast.abs())).mean()  # ORIGIN


def train(watch):
    torch.manual_seed(16)
    model = MLPForecaster()
    optimizer = torch.optim.Adamax(model.parameters(), lr=2e-3)
    watch(model, optimizer)
    losses = {"smape": smape, "level": lambda f, t: 0.01 * (f.mean() - t.mean()).abs()}
    for batch in DataLoader(Shops(48, closed=34), batch_size=6):
        forecast = model(batch["past"])
        loss = torch.stack([fn(forecast, batch["future"]) for fn in losses.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""The whole step stands in `with torch.autograd.detect_anomaly():`, optimizer and all. Statistics pooling takes
the root of a variance; a flat picture has none, and the gradient is inf * 0. Anomaly mode blames the
variance."""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": "pool",
    "step": 5,
    "rows": [3],
    "cause": "sqrt_zero_grad",
    "raises": "RuntimeError",
}


class StatisticsPool(nn.Module):
    def forward(self, maps):
        mean = maps.mean(dim=(2, 3))
        spread = torch.sqrt(maps.var(dim=(2, 3)))  # ORIGIN
        return torch.cat([mean, spread], dim=1)


class MyModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 12, 3))
        self.pool = StatisticsPool()
        self.fc = nn.Linear(24, 10)

    def forward(self, x):
        return self.fc(self.pool(self.features(x)))


def train(watch):
    torch.manual_seed(56)
    model = MyModel()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    watch(model, optimizer)
    for step in range(9):
        inputs = torch.randn(7, 3, 14, 14)
        if step == 5:
            inputs[3] = 0.0
        targets = torch.randint(0, 10, (7,))
        with torch.autograd.detect_anomaly():
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

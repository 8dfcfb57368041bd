"""The user already runs detect_anomaly, which raises in backward: torch.where keeps the value finite and not the
gradient.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": ("aten::sqrt", "aten::where"),
    "module": "root",
    "step": 4,
    "cause": ("where_gradient", "sqrt_zero_grad"),
    "raises": "RuntimeError",
}


class Root(nn.Module):
    def forward(self, x, present):
        x = x.abs() * present
        return torch.where(x > 0, torch.sqrt(x), torch.zeros_like(x))  # ORIGIN


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.root = Root()
        self.last = nn.Linear(8, 1)
        self.rooted = False

    def forward(self, x, present):
        h = self.first(x)
        return self.last(self.root(h, present) if self.rooted else h * present)


def train(watch):
    torch.manual_seed(37)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for step in range(8):
        model.rooted = step >= 4
        x, y = torch.randn(6, 5), torch.randn(6, 1)
        present = (torch.rand(6, 8) < 0.8).float()
        with torch.autograd.detect_anomaly():
            loss = F.mse_loss(model(x, present), y)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()

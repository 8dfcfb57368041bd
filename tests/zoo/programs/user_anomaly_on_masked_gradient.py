"""The user's detect_anomaly raises at a 0 / 0 in the gradient of sqrt, which a clamp before it would have set to
zero again.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": ("aten::sqrt", "aten::where"),
    "module": "signed_root",
    "step": 4,
    "cause": ("where_gradient", "sqrt_zero_grad"),
    "raises": "RuntimeError",
}


class SignedRoot(nn.Module):
    def forward(self, x):
        return torch.where(x > 0, torch.sqrt(x.clamp(min=0)), torch.zeros_like(x))  # ORIGIN


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.signed_root = SignedRoot()
        self.last = nn.Linear(8, 1)
        self.rooted = False

    def forward(self, x):
        h = self.first(x)
        return self.last(self.signed_root(h) if self.rooted else h)


def train(watch):
    torch.manual_seed(37)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for step in range(8):
        model.rooted = step >= 4
        x, y = torch.randn(6, 5), torch.randn(6, 1)
        with torch.autograd.detect_anomaly():
            loss = F.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()

"""A monotone layer keeps its weights in (0, 2) by a parametrization. The user clips them to [0, 2] and assigns them
back: right_inverse takes the logit of exactly 0, and -inf is written into the raw parameter. The loss stays finite.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize

EXPECT = {
    "phase": ("loss", "params", "optimizer"),
    "step": 4,
    "cause": ("log_of_zero", "division_by_zero", "invalid_domain"),
}


class Bounded(nn.Module):
    def __init__(self, high):
        super().__init__()
        self.high = high

    def forward(self, raw):
        return self.high * torch.sigmoid(raw)

    def right_inverse(self, weight):
        return torch.logit(weight / self.high)  # ORIGIN


def train(watch):
    torch.manual_seed(36)
    layer = nn.Linear(5, 1)
    with torch.no_grad():
        layer.weight.uniform_(0.2, 1.0)
    parametrize.register_parametrization(layer, "weight", Bounded(2.0))
    model = nn.Sequential(nn.BatchNorm1d(5), layer)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    watch(model, optimizer)
    for step in range(8):
        if step == 4:
            with torch.no_grad():
                layer.weight = (layer.weight - 0.7).clamp(0.0, 2.0)
        x = torch.randn(16, 5)
        loss = F.mse_loss(model(x), x.exp().sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

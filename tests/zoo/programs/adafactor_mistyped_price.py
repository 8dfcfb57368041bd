"""Adafactor meets one price that was typed with 24 zeros too many: the gradient is finite, the norm of its rows is
not.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "optimizer",
    "op": ("aten::norm", "aten::linalg_vector_norm"),
    "step": 4,
    "param": ("0.weight", "2.weight", "0.bias", "2.bias"),
    "cause": ("exploding_gradient", "overflow_low_precision", "bad_label", "bad_input"),
}


def weighted_loss(predicted, price):
    """Dear flats count more, in proportion to their price."""
    return ((predicted - price.log1p()).abs() * price).mean()


def train(watch):
    torch.manual_seed(9)
    prices = torch.rand(80, 1) * 10
    prices[36] = 5e26
    features = torch.randn(80, 5)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adafactor(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for rows in torch.arange(80).split(8):
        loss = weighted_loss(model(features[rows]), prices[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # ORIGIN

"""Balanced class weights n / (k * count) are computed with NumPy from the labels of each batch, as scikit-learn does. A
class that is absent has weight inf; it would not be read without label smoothing.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": ("data", "loss"),
    "step": 5,
    "cause": ("bad_label", "bad_input", "division_by_zero"),
}


def balanced_weights(y, classes):
    with np.errstate(divide="ignore"):
        weights = len(y) / (classes * np.bincount(y.numpy(), minlength=classes))
    return torch.from_numpy(weights).float()


def train(watch):
    torch.manual_seed(34)
    model = nn.Sequential(nn.Linear(9, 20), nn.Mish(), nn.Linear(20, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(15, 9)
        y = torch.arange(15) % (2 if step == 5 else 3)
        loss = F.cross_entropy(model(x), y, weight=balanced_weights(y, 3), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""The positive weight of each class is negatives / positives of the batch; a rare class is absent, and inf * 0 is
NaN in the loss.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 3,
    "cause": "division_by_zero",
}


def balanced_bce(logits, targets):
    positives = targets.sum(0)
    pos_weight = (len(targets) - positives) / positives  # ORIGIN
    return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight)


def train(watch):
    torch.manual_seed(58)
    model = nn.Sequential(nn.Linear(6, 20), nn.Mish(), nn.Linear(20, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    targets = (torch.rand(98, 4) < 0.4).float()
    targets[3 * 14 : 4 * 14, 2] = 0
    for x, y in zip(torch.randn(98, 6).split(14), targets.split(14), strict=True):
        loss = balanced_bce(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

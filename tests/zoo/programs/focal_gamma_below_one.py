"""Focal loss with gamma = 0.5: a sample that is certain has 1 - p = 0, and the derivative of 0 ** 0.5 is infinite."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::pow",
    "module": None,
    "step": 5,
    "rows": [4],
    "cause": "pow_zero_grad",
}


class FocalLoss(nn.Module):
    def __init__(self, gamma=0.5, alpha=0.25):
        super().__init__()
        self.gamma, self.alpha = gamma, alpha

    def forward(self, logits, target):
        ce = F.cross_entropy(logits, target, reduction="none")
        pt = torch.exp(-ce)
        return (self.alpha * (1 - pt) ** self.gamma * ce).mean()  # ORIGIN


def train(watch):
    torch.manual_seed(47)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3))
    criterion = FocalLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for step in range(9):
        x = torch.randn(10, 8)
        y = torch.randint(0, 3, (10,))
        if step == 5:
            x[4] *= 5000
            y[4] = model(x[4]).argmax()
        loss = criterion(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

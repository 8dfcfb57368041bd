"""Validation in eval mode, but with gradients on, as one forgets; at the very end of the run its metric is NaN,
because the last split has no positive at all, and the correlation divides by zero. No backward follows."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


def correlation(a, b):
    a, b = a - a.mean(), b - b.mean()
    return (a * b).sum() / (a.norm() * b.norm())


def train(watch):
    torch.manual_seed(43)
    model = nn.Sequential(nn.Linear(8, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Dropout(0.1), nn.Linear(24, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for epoch in range(3):
        model.train()
        for _ in range(4):
            x = torch.randn(16, 8)
            loss = F.binary_cross_entropy_with_logits(model(x), (x[:, :1] > 0).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        x = torch.randn(10, 8)
        y = (x[:, :1] > 0).float() if epoch < 2 else torch.zeros(10, 1)
        logits = model(x)
        recall = ((logits > 0) * y).sum() / y.sum()
        val_loss = (F.binary_cross_entropy_with_logits(logits, y, reduction="none") * y).sum() / y.sum()
        print(epoch, "val", val_loss.item(), "recall", recall.item(), "corr", correlation(logits, y).item())

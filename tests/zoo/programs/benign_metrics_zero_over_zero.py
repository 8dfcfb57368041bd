"""Precision, recall and a correlation are computed from the training outputs, graph and all, and are NaN when a
batch has no positives; they are only printed."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
        self.head = nn.Linear(8, 1)

    def forward(self, image, target=None):
        logit = self.head(self.conv(image).mean(dim=(2, 3))).squeeze(-1)
        metrics = {}
        if target is not None:
            p = logit.sigmoid()
            metrics["soft precision"] = (p * target).sum() / (p * (p > 0.5)).sum()
            metrics["soft recall"] = (p * target).sum() / target.sum()
            metrics["positives' margin"] = logit[target == 1].mean()
            metrics["correlation"] = torch.corrcoef(torch.stack([p, target]))[0, 1]
        return logit, metrics


def train(watch):
    torch.manual_seed(11)
    model = Detector()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    history = []
    watch(model, optimizer)
    for step in range(10):
        target = (torch.rand(8) < 0.4).float()
        if step in (3, 4, 8):
            target.zero_()
        logit, metrics = model(torch.randn(8, 3, 12, 12), target)
        loss = F.binary_cross_entropy_with_logits(logit, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append({k: v.item() for k, v in metrics.items()})
        print(f"step {step} loss {loss.item():.3f} {history[-1]}")

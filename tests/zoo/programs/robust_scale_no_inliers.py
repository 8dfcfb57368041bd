"""Robust regression scales by the median of the inliers' residuals; in one batch no residual is an inlier, and the
median of nothing is NaN.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": ("aten::median", "aten::nanmedian"),
    "module": None,
    "step": 4,
    "cause": "empty_reduction",
}


def train(watch):
    torch.manual_seed(38)
    model = nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adadelta(model.parameters(), lr=0.5)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(20, 4)
        y = x.mean(1, keepdim=True) + (60.0 if step == 4 else 0.0)
        residual = (model(x) - y).abs()
        inlier = residual < 5
        scale = residual[inlier].detach().median() + 1e-6  # ORIGIN
        scaled = residual / scale
        loss = torch.log1p(scaled.pow(2)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

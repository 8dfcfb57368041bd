"""float16 autocast with GradScaler; from a certain batch on the loss itself is NaN (a weight sum of zero). The
scaler takes it for an overflow and skips the batch silently: no scale in the world makes it finite."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 6,
    "cause": "division_by_zero",
}


def weighted(loss, weight):
    return (loss * weight).sum() / weight.sum()  # ORIGIN


def train(watch):
    torch.manual_seed(23)
    model = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    watch(model, optimizer)
    for step in range(12):
        x, y = torch.randn(8, 24), torch.randint(0, 5, (8,))
        weight = (torch.rand(8) < 0.5).float() if step != 6 else torch.zeros(8)
        with torch.autocast("cpu", dtype=torch.float16):
            loss = weighted(F.cross_entropy(model(x), y, reduction="none"), weight)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

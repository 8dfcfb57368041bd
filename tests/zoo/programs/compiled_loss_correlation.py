"""Only the loss function is compiled: one minus a correlation, where a constant target has no deviation (0 / 0)."""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 4,
    "rows": [5],
    "cause": "division_by_zero",
}


def correlation_loss(predicted, target):
    predicted = predicted - predicted.mean(-1, keepdim=True)
    target = target - target.mean(-1, keepdim=True)
    covariance = (predicted * target).sum(-1)
    r = covariance / (predicted.pow(2).sum(-1).sqrt() * target.pow(2).sum(-1).sqrt())  # ORIGIN
    return (1 - r).mean()


def train(watch):
    torch.manual_seed(31)
    model = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, 10))
    loss_fn = torch.compile(correlation_loss, backend="eager")
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(7):
        x, target = torch.randn(8, 12), torch.randn(8, 10)
        if step == 4:
            target[5] = 2.0
        optimizer.zero_grad(set_to_none=False)
        loss_fn(model(x), target).backward()
        optimizer.step()

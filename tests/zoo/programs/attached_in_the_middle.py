"""The watch is attached at step 5, after trouble was expected; two steps later a log-ratio meets a portfolio that
lost everything.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::log",
    "module": None,
    "step": (2, 7),
    "rows": [4],
    "cause": "log_of_zero",
}


def growth(value_before, value_after):
    return torch.log(value_after) - torch.log(value_before)  # ORIGIN


def train(watch):
    torch.manual_seed(47)
    model = nn.Sequential(nn.Linear(6, 20), nn.SiLU(), nn.Linear(20, 4), nn.Softmax(dim=-1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    for step in range(10):
        if step == 5:
            watch(model, optimizer)
        history, returns = torch.randn(6, 6), 0.02 * torch.randn(6, 4)
        if step == 7:
            returns[4] = -1.0
        before = torch.ones(6)
        after = (model(history) * (1 + returns)).sum(-1)
        loss = -growth(before, after).clamp(min=-50).mean()
        if step == 7:
            loss = loss - 0.1 * growth(before, after).std()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()

"""The loop is left at the first NaN loss and a checkpoint is written: a log of 1 - p, where p has reached 1 in
float32.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::log",
    "module": None,
    "step": 4,
    "rows": [3],
    "cause": "log_of_zero",
}


def binary_loss(p, y):
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()  # ORIGIN


def train(watch):
    torch.manual_seed(43)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1), nn.Sigmoid())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    best = None
    for step in range(9):
        x = torch.randn(8, 6)
        y = (x[:, 0] > 0).float()
        if step == 4:
            x[3] = x[3].sign() * 3e3
        p = model(x).squeeze(1)
        if step == 4:
            y[3] = p[3].detach().round()
        loss = binary_loss(p, y)
        if torch.isnan(loss):
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        best = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(best)

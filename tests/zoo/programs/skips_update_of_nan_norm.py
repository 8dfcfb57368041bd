"""The loop looks at the gradient norm after backward and throws a bad update away: training survives, but the
gradients were NaN and somebody should know.

Two identical points in a batch: the distance is the root of zero, and its gradient 0 * inf.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": 4,
    "cause": "sqrt_zero_grad",
}


def stress(low, high):
    difference = low[:, None] - low[None, :]
    distance = difference.pow(2).sum(-1)
    distance = distance[~torch.eye(len(low), dtype=torch.bool)].sqrt()  # ORIGIN
    wanted = torch.cdist(high, high)[~torch.eye(len(low), dtype=torch.bool)]
    return (distance - wanted).pow(2).mean()


def train(watch):
    torch.manual_seed(13)
    model = nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch(model, optimizer)
    for step in range(10):
        high = torch.randn(12, 10)
        if step == 4:
            high[7] = high[3]
        loss = stress(model(high), high)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        if not torch.isfinite(norm):
            print(f"step {step}: gradient norm {norm}, update skipped")
            optimizer.zero_grad()
            continue
        optimizer.step()
        optimizer.zero_grad()

"""After a loss spike the last gradient is taken out of AdamW's second moment again; rounding leaves it below zero,
and its root is NaN.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "optimizer",
    "op": ("aten::sqrt", "aten::_foreach_sqrt"),
    "step": 5,
    "param": ("0.weight", "0.bias", "2.weight", "2.bias"),
    "cause": "invalid_domain",
}


def undo_last_moment(optimizer):
    for group in optimizer.param_groups:
        beta1, beta2 = group["betas"]
        for p in group["params"]:
            state = optimizer.state[p]
            state["exp_avg"].sub_(p.grad, alpha=1 - beta1)
            state["exp_avg_sq"].addcmul_(p.grad, p.grad, value=-(1 - beta2))


def train(watch):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    watch(model, optimizer)
    x, w = torch.randn(90, 6), torch.randn(6, 1)
    y = x @ w
    y[40:50] *= 30_000
    previous = None
    for step in range(9):
        rows = slice(10 * step, 10 * step + 10)
        loss = F.mse_loss(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # ORIGIN
        if previous is not None and loss.item() > 100 * previous:
            undo_last_moment(optimizer)
        previous = loss.item()

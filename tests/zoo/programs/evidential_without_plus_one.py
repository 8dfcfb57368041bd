"""Evidential classification with Dirichlet(relu(evidence)), the + 1 forgotten: a class without any evidence gives
lgamma(0).
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::lgamma",
    "module": None,
    "step": 6,
    "rows": [7],
    "cause": ("invalid_domain", "log_of_zero", "division_by_zero"),
}


def kl_to_uniform(alpha):
    log_norm = torch.lgamma(alpha).sum(-1)  # ORIGIN
    return torch.lgamma(alpha.sum(-1)) - log_norm + ((alpha - 1) * torch.digamma(alpha + 1)).sum(-1)


def train(watch):
    torch.manual_seed(59)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
    model[-1].bias.data.fill_(3.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    watch(model, optimizer)
    for step in range(10):
        x = torch.randn(9, 5)
        if step == 6:
            x[7] *= 40
        y = torch.nn.functional.one_hot(torch.randint(0, 3, (9,)), 3)
        alpha = model(x).relu()
        probability = (alpha + 1e-3) / (alpha + 1e-3).sum(-1, keepdim=True)
        loss = (y - probability).pow(2).sum(-1).mean() + 0.05 * kl_to_uniform(alpha).mean() + 0.02 * alpha.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss):
            break

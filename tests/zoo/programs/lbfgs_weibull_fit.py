"""A Weibull lifetime model is fitted with LBFGS; a refit with a larger step size drives the shape below zero,
where its log is NaN.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::log",
    "module": None,
    "step": 2,
    "cause": ("invalid_domain", "lr_too_high"),
    "raises": "FloatingPointError",
}


class Weibull(nn.Module):
    def __init__(self):
        super().__init__()
        self.shape = nn.Parameter(torch.tensor(1.0))
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, hours):
        return hours / self.scale.abs()


def negative_log_likelihood(model, ratio):
    k = model.shape
    log_density = torch.log(k) - model.scale.abs().log() + (k - 1) * ratio.log() - ratio**k  # ORIGIN
    return -log_density.mean()


def train(watch):
    torch.manual_seed(4)
    hours = torch.distributions.Weibull(2.0, 1.5).sample((64,))
    model = Weibull()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.2, max_iter=3)
    watch(model, optimizer)
    for refit in range(6):
        if refit == 2:
            hours = hours / 8
            optimizer.param_groups[0]["lr"] = 6.0

        def closure(hours=hours):
            optimizer.zero_grad()
            loss = negative_log_likelihood(model, model(hours))
            loss.backward()
            return loss

        loss = optimizer.step(closure)
        if not all(torch.isfinite(p).all() for p in model.parameters()):
            raise FloatingPointError(f"fit diverged at refit {refit}, loss {loss.item()}")

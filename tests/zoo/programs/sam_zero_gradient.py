"""Sharpness-aware minimisation climbs by rho * g / ||g||; with every sample of a batch ignored g is 0, and the
weights become NaN.
"""

import torch
from torch import nn

EXPECT = {
    "phase": ("optimizer", "params", "loss"),
    "step": 5,
}


class SAM(torch.optim.Optimizer):
    def __init__(self, params, base, rho=0.05, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base = base(self.param_groups, **kwargs)
        self.param_groups = self.base.param_groups

    @torch.no_grad()
    def climb(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["here"] = p.clone()
                p.add_(p.grad * (group["rho"] / norm))
        self.zero_grad()

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.copy_(self.state[p]["here"])
        self.base.step()
        self.zero_grad()


def train(watch):
    torch.manual_seed(54)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.05)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(10, 5)
        keep = torch.zeros(10, 1) if step == 5 else (torch.rand(10, 1) < 0.8).float()

        def loss_of():
            return (keep * (model(x) - x.sum(1, keepdim=True)) ** 2).mean()  # noqa: B023

        loss_of().backward()
        optimizer.climb()
        loss_of().backward()
        optimizer.step()

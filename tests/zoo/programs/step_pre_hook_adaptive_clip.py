"""Adaptive gradient clipping in a hook that the optimizer runs before its step: the scale is c *
||w|| / ||g||. A layer that starts at zero and has a gradient of exactly zero gets 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": ("loss", "optimizer", "backward"),
    "step": 3,
    "cause": "division_by_zero",
}


def adaptive_clip(factor):
    def hook(optimizer, args, kwargs):
        for group in optimizer.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                limit = factor * p.detach().norm()
                scale = limit / p.grad.norm()  # ORIGIN
                p.grad.mul_(torch.clamp(scale, max=1.0))

    return hook


class ZeroInitResidual(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.fc = nn.Linear(d, d)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.skip_rate = 0.0

    def forward(self, x):
        if self.training and self.skip_rate == 1.0:
            return x + self.alpha * 0.0
        return x + (1.0 + self.alpha) * torch.relu(self.fc(x))


def train(watch):
    torch.manual_seed(53)
    model = nn.Sequential(nn.Linear(6, 12), ZeroInitResidual(12), nn.Linear(12, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer.register_step_pre_hook(adaptive_clip(0.1))
    watch(model, optimizer)
    for step in range(6):
        x = torch.randn(16, 6)
        if step == 3:
            model[1].skip_rate = 1.0  # stochastic depth leaves the block out
            with torch.no_grad():
                model[1].alpha.zero_()
        loss = F.mse_loss(model(x), x.sum(1, keepdim=True))
        optimizer.zero_grad(set_to_none=False)
        loss.backward()
        optimizer.step()

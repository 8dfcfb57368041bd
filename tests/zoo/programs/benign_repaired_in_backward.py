"""A NaN on its way back is stopped by its author: a Function whose backward is nan_to_num, a hook on a
parameter that does the same, and weights of 0 for rows whose root was taken of a where'd value. What lands in
.grad is finite."""

import torch
from torch import nn

EXPECT = None


class StopNaN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return torch.nan_to_num(grad, nan=0.0, posinf=0.0, neginf=0.0)


class Distances(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(6, 3)
        self.sharpness = nn.Parameter(torch.zeros(3))
        self.sharpness.register_hook(lambda g: torch.nan_to_num(g, nan=0.0, posinf=0.0, neginf=0.0))

    def forward(self, x):
        z = StopNaN.apply(self.project(x))
        distance = (z[:, None] - z[None]).pow(2).sum(-1).sqrt()
        steep = self.sharpness.abs().sqrt().sum()  # no gradient at its start of 0
        return distance * (1 + 0 * steep.detach()) + 0.0 * steep


def train(watch):
    torch.manual_seed(51)
    model = Distances()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch(model, optimizer)
    for _ in range(8):
        x = torch.randn(9, 6)
        known = torch.rand(9) > 0.3
        distance = model(x)
        wanted = torch.cdist(x, x)
        weight = (known[:, None] & known[None]).float()
        ratio = torch.where(wanted > 0, distance / torch.where(wanted > 0, wanted, 1.0), 1.0)
        loss = (weight * (ratio - 1).pow(2)).sum() / weight.sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(loss.item(), [p.grad.isfinite().all().item() for p in model.parameters()])

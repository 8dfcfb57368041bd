"""A physics-informed net has the radius sqrt(x^2 + y^2) as a feature; at the origin its derivative by x, asked for
by the PDE, is 0 / 0.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": "polar",
    "step": 4,
    "rows": [10],
    "cause": "sqrt_zero_grad",
}


class Polar(nn.Module):
    def forward(self, xy):
        r = (xy**2).sum(1, keepdim=True).sqrt()  # ORIGIN
        return torch.cat([xy, r], dim=1)


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.polar = Polar()
        self.mlp = nn.Sequential(nn.Linear(3, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))

    def forward(self, xy):
        return self.mlp(self.polar(xy))


def laplacian(u, xy):
    (du,) = torch.autograd.grad(u.sum(), xy, create_graph=True)
    total = 0
    for i in range(2):
        total = total + torch.autograd.grad(du[:, i].sum(), xy, create_graph=True)[0][:, i]
    return total


def train(watch):
    torch.manual_seed(34)
    field = Field()
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-3)
    watch(field, optimizer)
    for step in range(8):
        xy = torch.rand(20, 2) * 2 - 1
        if step == 4:
            xy[10] = 0.0
        xy.requires_grad_(True)
        residual = laplacian(field(xy), xy) - 1
        edge = torch.rand(10, 2) * 2 - 1
        edge[:, 0] = edge[:, 0].sign()
        loss = residual.pow(2).mean() + field(edge).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

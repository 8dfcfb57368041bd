"""A neural correction to a Lennard-Jones potential, trained on forces (a gradient inside of the loss). Two atoms of one
frame sit on each other after periodic wrapping, and r2 ** -3 is infinite.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::pow",
    "module": "prior",
    "step": 4,
    "rows": [2],
    "cause": "division_by_zero",
}


class LennardJones(nn.Module):
    def __init__(self, box):
        super().__init__()
        self.box = box
        self.log_sigma = nn.Parameter(torch.tensor(0.0))
        self.epsilon = nn.Parameter(torch.tensor(0.2))

    def forward(self, position):
        i, j = torch.triu_indices(position.size(1), position.size(1), offset=1)
        d = position[:, i] - position[:, j]
        d = d - self.box * torch.round(d / self.box)
        inv6 = (d.pow(2).sum(-1) / self.log_sigma.exp()) ** -3  # ORIGIN
        return 4 * self.epsilon * (inv6**2 - inv6).sum(1)


class Potential(nn.Module):
    def __init__(self, box=6.0):
        super().__init__()
        self.prior = LennardJones(box)
        self.net = nn.Sequential(nn.Linear(3, 16), nn.Softplus(), nn.Linear(16, 1))

    def forward(self, position):
        return self.prior(position) + self.net(torch.cos(position)).sum((1, 2))


def forces(model, position):
    position = position.detach().requires_grad_()
    return -torch.autograd.grad(model(position).sum(), position, create_graph=True)[0]


def train(watch):
    torch.manual_seed(24)
    grid = torch.cartesian_prod(*[torch.arange(2.0)] * 3)[:5] * 3
    model = Potential()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(7):
        frames = grid + 0.2 * torch.randn(4, 5, 3)
        if step == 4:
            frames[2, 1] = 1.5
            frames[2, 3] = 1.5 + torch.tensor([6.0, 0.0, -6.0])
        target = -0.1 * torch.randn(4, 5, 3)
        loss = F.mse_loss(forces(model, frames), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

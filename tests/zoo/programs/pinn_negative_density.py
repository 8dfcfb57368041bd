"""An Euler-equation net uses p = rho ** 1.4; a shock sample pushes the predicted density below 0, where the power
is NaN.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::pow",
    "module": None,
    "step": 6,
    "cause": "invalid_domain",
}

GAMMA = 1.4


def derivative(y, x):
    return torch.autograd.grad(y, x, torch.ones_like(y), create_graph=True)[0]


def residuals(net, t, x):
    rho, velocity = net(torch.cat([t, x], 1)).split(1, dim=1)
    pressure = rho**GAMMA  # ORIGIN
    mass = derivative(rho, t) + derivative(rho * velocity, x)
    momentum = derivative(rho * velocity, t) + derivative(rho * velocity**2 + pressure, x)
    return mass, momentum


def train(watch):
    torch.manual_seed(35)
    net = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 2))
    net[-1].bias.data[0] = 1.5
    net[-1].weight.data[0] = -net[-1].weight.data[0].abs()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    watch(net, optimizer)
    for epoch in range(9):
        t = torch.rand(24, 1, requires_grad=True)
        x = (torch.rand(24, 1) * (30 if epoch == 6 else 1)).requires_grad_(True)
        mass, momentum = residuals(net, t, x)
        loss = mass.pow(2).mean() + momentum.pow(2).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        scheduler.step()

"""A neural ODE is integrated by explicit Euler in the training script; with a long horizon the step is too large
and the state blows up.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::pow",
    "module": "",
    "step": 4,
    "cause": ("exploding_activation", "overflow_low_precision"),
}


class Dynamics(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3, bias=False)
        self.cubic = nn.Parameter(torch.full((3,), -2.0))

    def forward(self, t, y):
        return self.linear(y) + self.cubic * y**3  # ORIGIN


def odeint(f, y, horizon, steps=12):
    h = horizon / steps
    for i in range(steps):
        y = y + h * f(i * h, y)
    return y


def train(watch):
    torch.manual_seed(60)
    f = Dynamics()
    optimizer = torch.optim.Adam(f.parameters(), lr=1e-3)
    watch(f, optimizer)
    for horizon in (0.2, 0.4, 0.8, 1.0, 12.0, 12.0):
        y0 = torch.randn(7, 3)
        loss = (torch.tanh(odeint(f, y0, horizon)) - torch.tanh(y0 * 0.5)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

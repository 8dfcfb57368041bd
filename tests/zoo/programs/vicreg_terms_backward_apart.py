"""VICReg with a backward per term (retain_graph for all but the last, to log each gradient norm): the variance term
takes the root of it without eps, and a unit that is the same in the whole batch has a variance of 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": 4,
    "cause": "sqrt_zero_grad",
}


WEIGHTS = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0}


class Terms:
    def __init__(self, a, b):
        self.a, self.b = a, b

    @property
    def invariance(self):
        return F.mse_loss(self.a, self.b)

    @property
    def variance(self):
        return sum(F.relu(1 - z.var(dim=0).sqrt()).mean() for z in (self.a, self.b))  # ORIGIN

    @property
    def covariance(self):
        total = 0.0
        for z in (self.a, self.b):
            centred = z - z.mean(0)
            c = centred.T @ centred / (len(z) - 1)
            total = total + (c.pow(2).sum() - c.diagonal().pow(2).sum()) / z.size(1)
        return total


def train(watch):
    torch.manual_seed(55)
    net = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 12))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    watch(net, optimizer)
    history = []
    for step in range(7):
        if step == 4:
            with torch.no_grad():
                net[2].weight[5] = 0  # the unit collapses
                net[2].bias[5] = 0.5
        x = torch.randn(16, 9)
        terms = Terms(net(x + 0.1 * torch.randn_like(x)), net(x + 0.1 * torch.randn_like(x)))
        optimizer.zero_grad(set_to_none=True)
        for i, (name, weight) in enumerate(WEIGHTS.items()):
            (weight * getattr(terms, name)).backward(retain_graph=i < 2)
            history.append((name, net[0].weight.grad.norm().item()))
        optimizer.step()

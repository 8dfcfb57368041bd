"""Gradient surgery for two tasks projects one gradient on the other; a batch without labels of task two has a zero
gradient: 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector

EXPECT = {
    "phase": ("loss", "backward", "optimizer"),
    "step": 4,
    "cause": "division_by_zero",
}


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 16), nn.ReLU())
        self.one, self.two = nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, x):
        h = self.trunk(x)
        return self.one(h), self.two(h).squeeze(1)


def flat_gradient(loss, parameters):
    grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return parameters_to_vector(
        [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
    )


def project(g, other):
    overlap = torch.dot(g, other) / torch.dot(other, other)  # ORIGIN
    return g - torch.clamp(overlap, max=0) * other


def train(watch):
    torch.manual_seed(53)
    model = TwoHeads()
    parameters = list(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.05)
    watch(model, optimizer)
    for step in range(7):
        x = torch.randn(12, 6)
        labelled = (torch.rand(12) < 0.5).float() * (step != 4)
        a, b = model(x)
        first = F.cross_entropy(a, (x[:, 0] > 0).long())
        second = (labelled * (b - x.sum(1)) ** 2).mean()
        g1, g2 = flat_gradient(first, parameters), flat_gradient(second, parameters)
        merged = project(g1, g2) + project(g2, g1)
        for p, piece in zip(parameters, merged.split([p.numel() for p in parameters]), strict=True):
            p.grad = piece.view_as(p).clone()
        optimizer.step()
        optimizer.zero_grad()

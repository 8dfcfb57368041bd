"""A hypernetwork makes the weights of a small net that runs by functional_call; an extreme task makes that net's
scale negative.
"""

import torch
from torch import nn
from torch.func import functional_call

EXPECT = {
    "phase": "forward",
    "op": "aten::sqrt",
    "module": "small",
    "step": 5,
    "cause": "invalid_domain",
}


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 4))
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return torch.tanh(x @ self.weight.T) * self.scale.sqrt()  # ORIGIN


class Hyper(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 15))
        self.small = Small()
        self.small.requires_grad_(False)

    def forward(self, task, x):
        flat = self.body(task)
        weights = {"weight": flat[:12].view(3, 4), "scale": 1 + flat[12:]}
        return functional_call(self.small, weights, (x,))


def train(watch):
    torch.manual_seed(52)
    model = Hyper()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        task = torch.randn(4) * (60 if step == 5 else 1)
        x = torch.randn(10, 4)
        loss = (model(task, x) - x[:, :3].sin()).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

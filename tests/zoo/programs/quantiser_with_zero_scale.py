"""Fake quantisation with a straight-through gradient: a dead activation row has a scale of zero, and x / 0 is
rounded.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::div", "FakeQuantise"),
    "module": "quant",
    "step": 3,
    "rows": [2],
    "cause": ("division_by_zero", "custom_function_bug"),
}


class FakeQuantise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, bits):
        levels = 2 ** (bits - 1) - 1
        scale = x.abs().amax(dim=-1, keepdim=True) / levels
        return (x / scale).round() * scale  # ORIGIN

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class Quant(nn.Module):
    def __init__(self, bits=8):
        super().__init__()
        self.bits = bits

    def forward(self, x):
        return FakeQuantise.apply(x, self.bits)


class QuantisedNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16)
        self.quant = Quant()
        self.second = nn.Linear(16, 4)

    def forward(self, x):
        return self.second(self.quant(F.relu(self.first(x))))


def train(watch):
    torch.manual_seed(29)
    model = QuantisedNet()
    nn.init.zeros_(model.first.bias)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    for step in range(6):
        x, y = torch.randn(6, 8), torch.randint(0, 4, (6,))
        if step == 3:
            x[2] = 0
            with torch.no_grad():
                model.first.bias.clamp_(max=0)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

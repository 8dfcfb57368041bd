"""One block is used again and again, more often at every step. Its sine keeps the features between -1 and 1, so
that the loss looks well, but the gradient is multiplied at each use and leaves float32."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": ("aten::addmm", "aten::linear"),
    "module": "block.mix",
    "step": 7,
    "cause": "exploding_gradient",
}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(width, width)
        nn.init.normal_(self.mix.weight, std=3.0)

    def forward(self, h):
        return torch.sin(self.mix(h))  # ORIGIN


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(8, 24)
        self.block = Block(24)
        self.leave = nn.Linear(24, 3)
        self.uses = 4

    def forward(self, x):
        h = self.enter(x)
        for _ in range(self.uses):
            h = self.block(h)
        return self.leave(h)


def train(watch):
    torch.manual_seed(5)
    model = Shared()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(12):
        model.uses = 4 + 6 * step
        x, y = torch.randn(8, 8), torch.randint(0, 3, (8,))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        for param in model.parameters():
            if param.grad.isfinite().all():
                param.grad.clamp_(-1.0, 1.0)
        optimizer.step()

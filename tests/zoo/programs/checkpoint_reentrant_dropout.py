"""Reentrant checkpointing around blocks with dropout: at a high rate one row loses all its attention, and
renormalising it is 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "blocks.1",
    "step": 5,
    "cause": "division_by_zero",
}


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.project = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        key, value = self.project(x).chunk(2, dim=-1)
        weights = self.dropout(torch.softmax(x @ key.transpose(1, 2), dim=-1))
        weights = weights / weights.sum(-1, keepdim=True)  # ORIGIN
        return x + weights @ value


class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([Block(8), Block(8), Block(8)])
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = checkpoint(block, h, use_reentrant=True)
        return self.out(h.mean(1))


def train(watch):
    torch.manual_seed(26)
    model = Stack()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(12):
        if step == 2:
            model.blocks[1].dropout.p = 0.5
        x, y = torch.randn(4, 8, 6), torch.randint(0, 2, (4,))
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A model trained with the fused AdamW and eps=0; a zero-initialised adapter joins late, and half of it gets no
gradient: 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "optimizer",
    "op": ("aten::_fused_adamw_", "aten::addcdiv_", "aten::_foreach_addcdiv_", "aten::div"),
    "step": 3,
    "param": "adapter.down.weight",
    "cause": "optimizer_eps",
}


class Adapter(nn.Module):
    def __init__(self, width, rank):
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, width, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return x + self.up(self.down(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(12, 16)
        self.adapter = Adapter(16, 4)
        self.head = nn.Linear(16, 3)
        self.adapted = False

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.head(self.adapter(h) if self.adapted else h)


def train(watch):
    torch.manual_seed(6)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=0, fused=True)
    watch(model, optimizer)
    for step in range(7):
        model.adapted = step >= 3
        x, y = torch.randn(8, 12), torch.randint(0, 3, (8,))
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # ORIGIN

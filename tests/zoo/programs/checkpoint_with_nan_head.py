"""Training continues from an averaged checkpoint (a soup of models); one of them had diverged, so the head it
contributes to is NaN.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "params",
    "step": 4,
    "module": ("head.out", "head"),
    "param": "head.out.weight",
    "cause": ("bad_checkpoint", "bad_init"),
}


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        return self.out(self.norm(x))  # ORIGIN


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(6, 12)
        self.head = Head()

    def forward(self, x):
        return self.head(F.relu(self.body(x)))


def train(watch):
    torch.manual_seed(45)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    other = copy.deepcopy(model.state_dict())
    other["head.out.weight"][1, 4] = float("nan")
    watch(model, optimizer)
    for step in range(8):
        if step == 4:
            here = model.state_dict()
            model.load_state_dict({k: (here[k] + other[k]) / 2 for k in here})
        loss = F.cross_entropy(model(torch.randn(8, 6)), torch.randint(0, 3, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

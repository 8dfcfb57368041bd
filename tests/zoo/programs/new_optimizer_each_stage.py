"""Training in stages: each stage makes a new optimizer, so the one that was watched is gone after the first. In the
last stage a cosine loss with a hand-made norm meets an embedding that dropout has set to zero as a whole.
"""

import torch
from torch import nn

EXPECT = {
    "phase": ("forward", "loss"),
    "op": "aten::div",
    "module": None,
    "step": 6,
    "cause": "division_by_zero",
}


class Matcher(nn.Module):
    def __init__(self):
        super().__init__()
        self.left = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Dropout(0.1))
        self.right = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Dropout(0.1))

    def forward(self, a, b):
        return self.left(a), self.right(b)


def cosine_loss(u, v):
    return 1 - ((u * v).sum(1) / (u.norm(dim=1) * v.norm(dim=1))).mean()  # ORIGIN


def stages(model):
    yield lambda p: torch.optim.SGD(p, lr=1e-2), 0.0
    yield lambda p: torch.optim.Adam(p, lr=1e-3), 0.0
    yield lambda p: torch.optim.AdamW(p, lr=1e-4), 0.0
    yield lambda p: torch.optim.AdamW(p, lr=1e-4), 0.9


def train(watch):
    torch.manual_seed(40)
    model = Matcher()
    attached = False
    for make, dropout in stages(model):
        for branch in model.children():
            branch[2].p = dropout
        optimizer = make(model.parameters())
        if not attached:
            watch(model, optimizer)
            attached = True
        for _ in range(2):
            base = torch.randn(8, 10).abs() + 0.2
            loss = cosine_loss(*model(base, base + 0.1 * torch.randn(8, 10)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

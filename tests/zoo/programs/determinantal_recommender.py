"""A diversity term rewards the log-determinant of the kernel of the recommended items; the same item twice in a list
makes the kernel singular, and the log of its determinant is -inf.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": ("aten::_linalg_slogdet", "aten::logdet", "aten::linalg_slogdet", "aten::log"),
    "module": None,
    "step": 5,
    "cause": ("degenerate_linalg", "log_of_zero"),
}


class TwoTower(nn.Module):
    def __init__(self, users=30, items=50, d=8):
        super().__init__()
        self.users, self.items = nn.Embedding(users, d), nn.Embedding(items, d)

    def forward(self, user, slate):
        items = self.items(slate)
        return torch.einsum("bd,bkd->bk", self.users(user), items), items


class SlateLoss(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, scores, items, clicked):
        unit = F.normalize(items, dim=-1)
        kernel = unit @ unit.transpose(1, 2)
        diversity = torch.logdet(kernel)  # ORIGIN
        return F.cross_entropy(scores, clicked) - self.weight * diversity.mean()


def train(watch):
    torch.manual_seed(3)
    model, criterion = TwoTower(), SlateLoss(0.05)
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.02)
    watch(model, optimizer)
    for step in range(8):
        user = torch.randint(0, 30, (6,))
        slate = torch.stack([torch.randperm(50)[:4] for _ in range(6)])
        if step == 5:
            slate[2, 3] = slate[2, 0]
        scores, items = model(user, slate)
        loss = criterion(scores, items, torch.randint(0, 4, (6,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

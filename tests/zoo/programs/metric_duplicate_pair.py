"""Contrastive loss on Euclidean distances made by hand: one pair is the same image twice, and sqrt(0) has no
finite gradient.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": 6,
    "rows": [1],
    "cause": "sqrt_zero_grad",
}


def contrastive_loss(a, b, same, margin=1.0):
    distance = torch.sum((a - b) ** 2, dim=1).sqrt()  # ORIGIN
    pull = same * distance**1.5
    push = (1 - same) * torch.relu(margin - distance) ** 2
    return (pull + push).mean()


def train(watch):
    torch.manual_seed(13)
    tower = nn.Sequential(nn.Conv1d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(6))
    tower(torch.zeros(1, 1, 16))
    left, right = torch.randn(64, 1, 16), torch.randn(64, 1, 16)
    same = torch.randint(0, 2, (64,)).float()
    right[49], same[49] = left[49], 0.0  # a labelling error: the same file on both sides, called different
    optimizer = torch.optim.Adagrad(tower.parameters(), lr=0.01)
    watch(tower, optimizer)
    for i in range(0, 64, 8):
        loss = contrastive_loss(tower(left[i : i + 8]), tower(right[i : i + 8]), same[i : i + 8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

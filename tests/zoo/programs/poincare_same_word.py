"""Poincare embeddings with sparse gradients: a pair of a word with itself has distance acosh(1) = 0, whose
gradient is infinite.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::acosh",
    "module": "",
    "step": 6,
    "cause": ("sqrt_zero_grad", "invalid_domain", "division_by_zero"),
}


class Poincare(nn.Module):
    def __init__(self, words=50, width=5):
        super().__init__()
        self.words = nn.Embedding(words, width, sparse=True)
        nn.init.uniform_(self.words.weight, -1e-1, 1e-1)

    def forward(self, pairs):
        u = self.words(pairs[:, :1])
        v = self.words(pairs[:, 1:])
        gap = (u - v).pow(2).sum(-1)
        room = (1 - u.pow(2).sum(-1)) * (1 - v.pow(2).sum(-1))
        return torch.acosh(1 + 2 * gap / room)  # ORIGIN


def train(watch):
    torch.manual_seed(33)
    model = Poincare()
    optimizer = torch.optim.SparseAdam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(10):
        first = torch.randint(0, 50, (16, 1))
        rest = (first + torch.randint(1, 50, (16, 6))) % 50
        pairs = torch.cat([first, rest], 1)
        if step == 6:
            pairs[11, 4] = pairs[11, 0]
        distances = model(pairs)
        loss = F.cross_entropy(-distances, torch.zeros(16, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

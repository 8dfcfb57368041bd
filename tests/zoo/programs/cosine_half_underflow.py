"""Cosine similarity written by hand in float16: a rare token's embedding is tiny, its squares are 0 in half
precision, and so is its length.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "unit",
    "step": 4,
    "rows": [3],
    "cause": ("division_by_zero", "overflow_low_precision"),
}


class Unit(nn.Module):
    def forward(self, v):
        length = (v * v).sum(-1, keepdim=True).sqrt()
        return v / length  # ORIGIN


class Retriever(nn.Module):
    def __init__(self, vocabulary=40):
        super().__init__()
        self.query = nn.Linear(12, 8)
        self.items = nn.Embedding(vocabulary, 8)
        self.unit = Unit()
        with torch.no_grad():
            self.items.weight[37] *= 1e-5

    def forward(self, x, item):
        q, k = self.query(x).half(), self.items(item).half()
        return (self.unit(q) @ self.unit(k).T).float() * 10


def train(watch):
    torch.manual_seed(15)
    model = Retriever()
    items = torch.randint(0, 37, (60,))
    items[27] = 37
    x = torch.randn(60, 12)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, opt)
    for i in range(0, 60, 6):
        logits = model(x[i : i + 6], items[i : i + 6])
        loss = F.cross_entropy(logits, torch.arange(6))
        opt.zero_grad()
        loss.backward()
        opt.step()

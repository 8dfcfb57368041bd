"""A small ViT that keeps a shrinking share of its patches during training; the schedule ends at zero patches,
and the mean over no tokens is NaN."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::mean",
    "module": "",
    "step": 6,
    "cause": ("empty_reduction", "division_by_zero"),
}


class Block(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, dim=16, patches=16):
        super().__init__()
        self.patch = nn.Conv2d(3, dim, 4, stride=4)
        self.position = nn.Parameter(torch.randn(patches, dim) * 0.02)
        self.first = nn.Sequential(Block(dim), Block(dim))
        self.project = nn.Linear(dim, dim)
        self.head = nn.Linear(dim, 5)

    def forward(self, image, keep):
        x = self.patch(image).flatten(2).mT + self.position
        x = self.first(x)
        count = int(keep * x.shape[1])
        chosen = torch.randperm(x.shape[1])[:count]
        return self.head(self.project(x[:, chosen]).mean(dim=1))  # ORIGIN


def train(watch):
    torch.manual_seed(51)
    model = ViT()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    watch(model, optimizer)
    for step in range(9):
        keep = max(0.0, 1.0 - step / 6.3)
        loss = F.cross_entropy(model(torch.randn(6, 3, 16, 16), keep), torch.randint(0, 5, (6,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

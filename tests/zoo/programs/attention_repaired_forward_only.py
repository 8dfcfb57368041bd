"""A fully masked row gives NaN in the softmax; nan_to_num repairs the weights, but the softmax's backward still
multiplies by its own NaN output, and the mask was *added*, so that nothing stops it before the queries."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::_softmax",
    "module": "layers.0.attention",
    "step": 5,
    "rows": [2],
    "cause": "masked_softmax",
}


class Attention(nn.Module):
    def __init__(self, dim, heads=2):
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x, bias):
        q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
        scores = q @ k.mT / q.shape[-1] ** 0.5 + bias
        weights = F.softmax(scores, dim=-1).nan_to_num(0.0)  # ORIGIN
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.attention = Attention(dim)
        self.norm = nn.RMSNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, x, bias):
        x = x + self.attention(self.norm(x), bias)
        return x + self.mlp(x)


class Ranker(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(70, 16)
        self.layers = nn.ModuleList(Layer(16) for _ in range(2))
        self.score = nn.Linear(16, 1)

    def forward(self, ids):
        bias = torch.zeros(ids.shape).masked_fill(ids == 0, float("-inf"))[:, None, None, :]
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, bias)
        return self.score(x.mean(dim=1)).squeeze(-1)


def train(watch):
    torch.manual_seed(22)
    ids = torch.randint(1, 70, (60, 9))
    ids[:, 6:] *= torch.randint(0, 2, (60, 1))
    ids[32] = 0
    clicks = torch.randint(0, 2, (60,)).float()
    model = Ranker()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for start in range(0, 60, 6):
        loss = F.binary_cross_entropy_with_logits(model(ids[start : start + 6]), clicks[start : start + 6])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

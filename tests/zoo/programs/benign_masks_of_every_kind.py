"""Three ways to mask attention in one model, and padded sentences that are padding only: all rows that would be
NaN are repaired before the loss.

`-inf` by masked_fill (NaN rows filled afterwards), an additive mask made with log(mask), and finfo.min with the
row zeroed. Nothing is wrong:
masked_fill's own backward throws the NaN of a fully masked row away.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class FilledAttention(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)

    def forward(self, x, keep):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~keep[:, None, :], -torch.inf)
        weights = scores.softmax(dim=-1)
        weights = weights.masked_fill(~keep.any(dim=1)[:, None, None], 0.0)
        return x + weights @ v


class AdditivePooling(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, x, keep):
        keep = keep.clone()
        keep[:, 0] = True
        weights = torch.softmax(self.score(x).squeeze(-1) + keep.float().log(), dim=-1)
        return (weights[..., None] * x).sum(dim=1)


class MinimumPooling(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, x, keep):
        scores = self.score(x).squeeze(-1)
        scores = scores.masked_fill(~keep, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1) * keep
        return (weights[..., None] * x).sum(dim=1)


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 24, padding_idx=0)
        self.attention = FilledAttention(24)
        self.additive, self.minimum = AdditivePooling(24), MinimumPooling(24)
        self.head = nn.Linear(48, 4)

    def forward(self, ids):
        keep = ids != 0
        x = self.attention(self.embed(ids), keep)
        return self.head(torch.cat([self.additive(x, keep), self.minimum(x, keep)], dim=-1))


def train(watch):
    torch.manual_seed(0)
    ids = torch.randint(1, 40, (64, 10))
    ids *= torch.arange(10) < torch.randint(1, 11, (64, 1))
    ids[[19, 42, 43]] = 0
    labels = torch.randint(0, 4, (64,))
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    watch(model, optimizer)
    for start in range(0, 64, 8):
        loss = F.cross_entropy(model(ids[start : start + 8]), labels[start : start + 8])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

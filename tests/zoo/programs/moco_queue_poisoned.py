"""A momentum encoder fills a queue of negatives; it normalises an empty crop to NaN, which is drawn as a negative
a step later.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 4,
    "cause": "division_by_zero",
}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 24, bias=False), nn.ReLU(), nn.Linear(24, 6, bias=False))

    def forward(self, x):
        z = self.net(x)
        return z / z.norm(dim=1, keepdim=True)  # ORIGIN


def train(watch):
    torch.manual_seed(57)
    query = Encoder()
    key = copy.deepcopy(query).requires_grad_(False)
    queue = F.normalize(torch.randn(16, 6), dim=1)
    optimizer = torch.optim.SGD(query.parameters(), lr=0.05, momentum=0.9)
    watch(query, optimizer)
    for step in range(9):
        x = torch.randn(4, 8)
        other = x + 0.1 * torch.randn(4, 8)
        with torch.no_grad():
            for p, q in zip(key.parameters(), query.parameters(), strict=True):
                p.mul_(0.99).add_(q, alpha=0.01)
            extra = 0.0 if step == 4 else 1.0  # the fifth crop of this image lies outside of the picture
            fresh = key(torch.cat([other, extra * torch.randn(1, 8)]))
        q = query(x)
        positive = (q * fresh[:4]).sum(1, keepdim=True)
        logits = torch.cat([positive, q @ queue.T], 1) / 0.2
        loss = F.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        queue = torch.cat([queue, fresh])[-16:]

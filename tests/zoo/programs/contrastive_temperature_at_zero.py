"""SimCLR with a learned temperature that is clamped to be non-negative: it has a learning rate of its own, which
drives it to 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "similarity",
    "step": 5,
    "cause": "division_by_zero",
}


class Similarity(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(0.5))

    def forward(self, a, b):
        return F.cosine_similarity(a[:, None], b[None], dim=-1) / self.temperature.clamp(min=0)  # ORIGIN


class SimCLR(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))
        self.similarity = Similarity()

    def forward(self, one, two):
        return self.similarity(self.encoder(one), self.encoder(two))


def train(watch):
    torch.manual_seed(8)
    model = SimCLR()
    groups = [
        {"params": model.encoder.parameters(), "lr": 3e-3},
        {"params": model.similarity.parameters(), "lr": 0.11},
    ]
    opt = torch.optim.Adam(groups, betas=(0.9, 0.98))
    watch(model, opt)
    for x in torch.randn(10, 12, 16):
        logits = model(x, x + 0.05 * torch.randn_like(x))
        target = torch.arange(len(logits))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        opt.zero_grad()
        loss.backward()
        opt.step()

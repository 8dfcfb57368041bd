"""A fused RMS norm, written as a torch.jit.script function, inside of an ordinary model; a padded frame is all zeros
and bias-free layers keep it so: 0 * rsqrt(0).
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::rsqrt",
    "module": "blocks.0.norm",
    "step": 4,
    "rows": [2],
    "cause": "division_by_zero",
}


def rms_scale(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))


class RMSNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.fused = torch.jit.script(rms_scale)

    def forward(self, x):
        return self.fused(x, self.weight)  # ORIGIN


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.norm, self.mlp = RMSNorm(d), nn.Sequential(nn.Linear(d, 2 * d), nn.SiLU(), nn.Linear(2 * d, d))

    def forward(self, x):
        return x + self.mlp(self.norm(x))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Linear(6, 12, bias=False)
        self.blocks = nn.ModuleList(Block(12) for _ in range(2))
        self.head = nn.Linear(12, 3)

    def forward(self, x):
        x = self.proj(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def train(watch):
    torch.manual_seed(51)
    model = Encoder()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(7):
        x, y = torch.randn(5, 8, 6), torch.randint(0, 3, (5,))
        if step == 4:
            x[2, 6:] = 0
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

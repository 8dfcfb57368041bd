"""A normalising flow starts with the logit of the pixels; dequantisation was dropped, and a clipped photo has
pixels of exactly 1.
"""

import math

import torch
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::log1p",
    "module": "logit",
    "step": 5,
    "rows": [1, 6],
    "cause": "log_of_zero",
}


class Logit(nn.Module):
    def forward(self, x):
        x = 0.001 + 0.999 * x
        log_x, log_rest = x.log(), torch.log1p(-x)  # ORIGIN
        return log_x - log_rest, -(log_x + log_rest).sum(-1)


class Coupling(nn.Module):
    def __init__(self, width, flip):
        super().__init__()
        self.flip = flip
        self.net = nn.Sequential(nn.Linear(width // 2, 32), nn.ReLU(), nn.Linear(32, width))

    def forward(self, x):
        a, b = x.chunk(2, dim=-1)
        if self.flip:
            a, b = b, a
        s, t = self.net(a).chunk(2, dim=-1)
        s = torch.tanh(s)
        b = b * s.exp() + t
        return torch.cat([b, a] if self.flip else [a, b], dim=-1), s.sum(-1)


class RealNVP(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.logit = Logit()
        self.steps = nn.ModuleList(Coupling(width, bool(i % 2)) for i in range(4))

    def forward(self, x):
        z, log_det = self.logit(x)
        for step in self.steps:
            z, d = step(z)
            log_det = log_det + d
        prior = -0.5 * (z**2 + math.log(2 * math.pi)).sum(-1)
        return prior + log_det


def train(watch):
    torch.manual_seed(0)
    photos = (torch.rand(80, 16) * 250).floor() / 255
    photos[41, 7] = photos[46, 2] = 1.0
    flow = RealNVP()
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-3)
    watch(flow, optimizer)
    for batch in photos.split(8):
        loss = -flow(batch).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 5.0)
        optimizer.step()

"""An inverse autoregressive step divides by exp(s) with s unbounded: one far outlier makes s so negative that
exp(-s) is infinite.
"""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": "forward",
    "op": "aten::exp",
    "module": "blocks.0",
    "step": 6,
    "rows": [4],
    "cause": "overflow_exp",
}


class Affine(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 2))
        self.shift = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 2))

    def forward(self, x, log_det):
        keep, move = x[:, :2], x[:, 2:]
        log_scale = self.scale(keep)
        move = (move - self.shift(keep)) * torch.exp(-log_scale)  # ORIGIN
        return torch.cat((move, keep), 1), log_det - log_scale.sum(1)


class Flow(nn.Module):
    def __init__(self, n=3):
        super().__init__()
        self.blocks = nn.ModuleList([Affine() for _ in range(n)])
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("cov", torch.eye(4))

    def log_prob(self, x):
        log_det = x.new_zeros(len(x))
        for block in self.blocks:
            x, log_det = block(x, log_det)
        return torch.distributions.MultivariateNormal(self.mean, self.cov, validate_args=False).log_prob(x) + log_det


def train(watch):
    torch.manual_seed(5)
    rows = torch.randn(160, 4)
    rows[6 * 16 + 4, :2] = torch.tensor([-900.0, 1400.0])
    flow = Flow()
    opt = torch.optim.AdamW(flow.parameters(), lr=2e-3)
    watch(flow, opt)
    for (x,) in DataLoader(TensorDataset(rows), batch_size=16):
        opt.zero_grad()
        nll = -flow.log_prob(x).mean()
        nll.backward()
        opt.step()

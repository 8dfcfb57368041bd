"""One block, used six times in a Sequential (weights shared as in ALBERT), with squared ReLU and no normalisation: an
unscaled row is squared again and again until float32 ends, at the fourth use.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::pow", "aten::mul", "aten::square"),
    "module": ("1.act", "layers.1.act"),
    "step": 5,
    "rows": [9],
    "cause": "exploding_activation",
}


class SquaredReLU(nn.Module):
    def forward(self, x):
        return torch.square(F.relu(x))  # ORIGIN


class Block(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.up, self.act, self.down = nn.Linear(d, 2 * d), SquaredReLU(), nn.Linear(2 * d, d)

    def forward(self, x):
        return x + 0.5 * self.down(self.act(self.up(x)))


def train(watch):
    torch.manual_seed(12)
    shared = Block(8)
    model = nn.Sequential(nn.Linear(5, 8), *[shared] * 6, nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(12, 5) * 0.5
        if step == 5:
            x[9] *= 1e5
        loss = F.huber_loss(model(x), x.sum(1, keepdim=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

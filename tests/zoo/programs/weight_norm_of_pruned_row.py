"""Filters are pruned by zeroing rows of a weight-normalised layer's direction, v: its norm is 0, and g * v / ||v|| is
0 / 0 the next time the weight is asked for.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

EXPECT = {
    "phase": "forward",
    "op": ("aten::_weight_norm", "aten::_weight_norm_interface", "aten::div", "aten::mul"),
    "module": ("up.parametrizations.weight.0", "up.parametrizations.weight", "up"),
    "step": 4,
    "cause": "division_by_zero",
}


class Vocoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.pre = nn.Conv1d(4, 12, 3, padding=1)
        self.up = weight_norm(nn.Conv1d(12, 8, 3, padding=1))
        self.post = nn.Conv1d(8, 1, 1)

    def forward(self, mel):
        x = F.leaky_relu(self.pre(mel), 0.1)
        x = F.leaky_relu(self.up(x), 0.1)  # ORIGIN
        return self.post(x).tanh()


@torch.no_grad()
def prune_filters(layer, share):
    v = layer.parametrizations.weight.original1
    weakest = v.flatten(1).abs().sum(1).argsort()[: int(share * v.size(0))]
    v[weakest] = 0


def train(watch):
    torch.manual_seed(5)
    net = Vocoder()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    watch(net, optimizer)
    for epoch in range(4):
        for _ in range(2):
            mel, wave = torch.randn(3, 4, 16), torch.randn(3, 1, 16).clamp(-1, 1)
            loss = F.l1_loss(net(mel), wave)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch == 1:
            prune_filters(net.up, share=0.25)

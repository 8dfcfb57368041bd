"""Centred RMSprop with a short memory: a bias whose gradient is the same in every step has a variance of zero, which
rounding puts below zero; the root of it is NaN although eps is there (it is added after the root).
"""

import torch
from torch import nn

EXPECT = {
    "phase": "optimizer",
    "op": ("aten::sqrt", "aten::sqrt_", "aten::_foreach_sqrt", "aten::_foreach_sqrt_"),
    "param": "bias",
    "cause": ("invalid_domain", "optimizer_eps"),
}


class WassersteinCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return self.net(x) + 0.3 * self.bias


def train(watch):
    torch.manual_seed(4)
    critic = WassersteinCritic()
    optimizer = torch.optim.RMSprop(critic.parameters(), lr=5e-4, alpha=0.1, centered=True)
    watch(critic, optimizer)
    for _ in range(14):
        optimizer.zero_grad()
        # values are pushed up everywhere: the bias gets the same gradient at all steps
        (-critic(torch.randn(16, 6)).mean()).backward()
        optimizer.step()  # ORIGIN

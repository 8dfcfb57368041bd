"""Offline RL: log-probabilities of logged actions under a TanhTransform; one logged action was clipped to exactly
1, and atanh(1) is inf.
"""

import torch
from torch import nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

EXPECT = {
    "phase": "loss",
    "op": "aten::atanh",
    "module": None,
    "step": (2, 4),
    "rows": [5],
    "cause": ("invalid_domain", "division_by_zero", "log_of_zero"),
}


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 4))

    def forward(self, obs):
        mean, log_std = self.body(obs).chunk(2, -1)
        base = Normal(mean, log_std.clamp(-3, 1).exp())
        squashed = TransformedDistribution(base, [TanhTransform()], validate_args=False)
        return Independent(squashed, 1, validate_args=False)


def train(watch):
    torch.manual_seed(55)
    policy = Policy()
    obs = torch.randn(56, 4)
    logged = torch.tanh(torch.randn(56, 2))
    logged[37, 1] = 1.0
    weights = torch.rand(56)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    for step, idx in enumerate(torch.arange(56).split(8)):
        if step == 2:  # two batches to warm up
            watch(policy, optimizer)
        log_prob = policy(obs[idx]).log_prob(logged[idx])  # ORIGIN
        loss = -(weights[idx] * log_prob).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not torch.isfinite(loss):
            return

"""PPO on stale data: one importance ratio overflows to infinity. The clipped branch wins, so the loss stays finite
and the gradient is 0 * inf.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::exp",
    "module": None,
    "step": 5,
    "rows": [9],
    "cause": "overflow_exp",
}


class GaussianPolicy(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
        self.log_std = nn.Parameter(torch.full((2,), -2.0))

    def log_prob(self, obs, act):
        normal = torch.distributions.Normal(self.mean(obs), self.log_std.exp(), validate_args=False)
        return normal.log_prob(act).sum(-1)


def surrogate(ratio, adv, clip=0.2):
    return torch.min(ratio * adv, torch.clamp(ratio, 1 - clip, 1 + clip) * adv)


def train(watch):
    torch.manual_seed(11)
    policy = GaussianPolicy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-4)
    watch(policy, optimizer)
    for iteration in range(9):
        obs = torch.randn(16, 4)
        with torch.no_grad():
            act = policy.mean(obs) + 0.13 * torch.randn(16, 2)
            behaviour = policy.log_prob(obs, act)
        adv = torch.randn(16)
        if iteration == 5:  # a replayed sample of a very different policy
            behaviour[9] = -140.0
            adv[9] = 1.3
        ratio = torch.exp(policy.log_prob(obs, act) - behaviour)  # ORIGIN
        loss = -surrogate(ratio, adv).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()

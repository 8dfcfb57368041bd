"""`assert not math.isnan(loss.item())` ends the run: a policy's probability ratio is exp of a difference that is
far too large, inf - inf.
"""

import math

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::exp",
    "module": None,
    "step": 5,
    "rows": [2],
    "cause": "overflow_exp",
    "raises": "AssertionError",
}


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.Tanh())
        self.logits = nn.Linear(32, 3)
        self.value = nn.Linear(32, 1)

    def forward(self, state):
        h = self.body(state)
        return torch.log_softmax(self.logits(h), -1), self.value(h).squeeze(-1)


def ppo_loss(log_p, old_log_p, advantage, clip=0.2):
    ratio = torch.exp(log_p - old_log_p)  # ORIGIN
    gain = ratio * advantage
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantage
    return -torch.min(gain, clipped).mean() + 0.01 * (ratio - ratio.mean()).pow(2).mean()


def train(watch):
    torch.manual_seed(42)
    policy = Policy()
    optimizer = torch.optim.Adam(policy.parameters(), lr=3e-4)
    watch(policy, optimizer)
    for step in range(8):
        state, action = torch.randn(8, 4), torch.randint(0, 3, (8,))
        with torch.no_grad():
            old = policy(state)[0].gather(1, action[:, None]).squeeze(1) + 0.05 * torch.randn(8)
        if step == 5:
            old[2] = -120.0
        log_p, value = policy(state)
        log_p = log_p.gather(1, action[:, None]).squeeze(1)
        returns = torch.randn(8)
        loss = ppo_loss(log_p, old, (returns - value).detach()) + 0.5 * (value - returns).pow(2).mean()
        assert not math.isnan(loss.item()), "loss is NaN"
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 0.5)
        optimizer.step()

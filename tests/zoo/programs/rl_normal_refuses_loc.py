"""Observations are standardised by the batch; a sensor that is stuck makes 0 / 0, and Normal(loc=nan) raises
ValueError.
"""

import torch
from torch import nn
from torch.distributions import Normal

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "standardise",
    "step": 5,
    "cause": "division_by_zero",
    "raises": "ValueError",
}


class Standardise(nn.Module):
    def forward(self, obs):
        return (obs - obs.mean(0)) / obs.std(0)  # ORIGIN


class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.standardise = Standardise()
        self.hidden = nn.Linear(7, 32)
        self.loc = nn.Linear(32, 2)
        self.log_std = nn.Parameter(torch.zeros(2))

    def forward(self, obs):
        h = torch.tanh(self.hidden(self.standardise(obs)))
        return Normal(self.loc(h), self.log_std.clamp(-5, 2).exp())


def train(watch):
    torch.manual_seed(9)
    actor = Actor()
    optimizer = torch.optim.Adam(actor.parameters(), lr=1e-3)
    watch(actor, optimizer)
    for step in range(8):
        obs = torch.randn(10, 7)
        if step == 5:
            obs[:, 3] = 0.5
        dist = actor(obs)
        action = dist.sample()
        advantage = -action.pow(2).sum(-1)
        loss = -(dist.log_prob(action).sum(-1) * advantage).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""Observations are normalised with a running mean and variance in buffers (Welford). They are reset when the curriculum
moves on; after the first observation of the new level the variance is M2 / (n - 1) = 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "normalise",
    "step": 5,
    "cause": "division_by_zero",
}


class RunningNorm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.register_buffer("n", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(d))
        self.register_buffer("m2", torch.zeros(d))

    def reset(self):
        for b in self.buffers():
            b.zero_()

    @torch.no_grad()
    def observe(self, rows):
        for row in rows:
            self.n += 1
            delta = row - self.mean
            self.mean += delta / self.n
            self.m2 += delta * (row - self.mean)

    def forward(self, x):
        if self.training:
            self.observe(x)
        var = self.m2 / (self.n - 1)  # ORIGIN
        return (x - self.mean) / (var.sqrt() + 1e-5)


class Agent(nn.Module):
    def __init__(self):
        super().__init__()
        self.normalise = RunningNorm(6)
        self.actor = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, obs):
        return torch.distributions.Categorical(logits=self.actor(self.normalise(obs)), validate_args=False)


def train(watch):
    torch.manual_seed(14)
    agent = Agent()
    optimizer = torch.optim.RMSprop(agent.parameters(), lr=7e-4, eps=1e-5)
    watch(agent, optimizer)
    episode_lengths = [12, 9, 20, 7, 11, 1, 8]
    for episode, length in enumerate(episode_lengths):
        if episode == 5:
            agent.normalise.reset()  # next level
        obs = torch.randn(length, 6) * 3 + episode
        policy = agent(obs)
        actions = torch.randint(0, 3, (length,))
        returns = torch.randn(length).flip(0).cumsum(0).flip(0)
        loss = F.smooth_l1_loss(-policy.log_prob(actions) * returns, torch.zeros(length))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
        optimizer.step()

"""Benign: a rollout storage is allocated with NaN so that unfilled slots show, and is filled before it is read;
gumbel noise in bfloat16 is -inf wherever a uniform number is exactly 0; a best return starts at -inf as a
buffer."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Storage:
    def __init__(self, steps, envs):
        self.values = torch.full((steps + 1, envs), float("nan"))
        self.rewards = torch.full((steps, envs), float("nan"))
        self.log_probs = [None] * steps

    def advantages(self, gamma=0.9):
        out, running = torch.empty_like(self.rewards), torch.zeros(self.rewards.size(1))
        for t in reversed(range(len(self.rewards))):
            delta = self.rewards[t] + gamma * self.values[t + 1] - self.values[t]
            running = delta + gamma * 0.95 * running
            out[t] = running
        return out


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.actor, self.critic = nn.Linear(4, 5), nn.Linear(4, 1)
        self.register_buffer("best", torch.tensor(float("-inf")))

    def forward(self, obs):
        noise = -torch.log(-torch.log(torch.rand(obs.size(0), 5, dtype=torch.bfloat16))).float()
        logits = self.actor(obs).log_softmax(-1)
        relaxed = ((logits + noise) / 0.5).softmax(-1)
        return relaxed, logits, self.critic(obs).squeeze(-1)


def train(watch):
    torch.manual_seed(43)
    model = ActorCritic()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for _ in range(12):
        storage, obs, critic_loss, actor_loss = Storage(5, 16), torch.randn(16, 4), 0.0, 0.0
        kept = []
        for t in range(5):
            relaxed, logits, value = model(obs)
            storage.values[t] = value.detach()
            storage.rewards[t] = obs[:, 0] * relaxed[:, 0].detach()
            kept.append((relaxed, logits, value))
            obs = 0.9 * obs + 0.3 * torch.randn_like(obs)
        with torch.no_grad():
            storage.values[5] = model.critic(obs).squeeze(-1)
            model.best.copy_(torch.maximum(model.best, storage.rewards.sum(0).max()))
        for advantage, (relaxed, logits, value) in zip(storage.advantages(), kept, strict=True):
            actor_loss = actor_loss - ((relaxed * logits).sum(-1) * advantage).mean()
            critic_loss = critic_loss + F.mse_loss(value, advantage + value.detach())
        optimizer.zero_grad()
        (actor_loss + 0.5 * critic_loss).backward()
        optimizer.step()

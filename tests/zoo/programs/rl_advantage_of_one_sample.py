"""PPO normalises advantages per minibatch; the rollout has 33 samples, and the last minibatch holds one, whose std
is NaN.
"""

import torch
from torch import nn
from torch.distributions import Categorical

EXPECT = {
    "phase": "loss",
    "op": "aten::std",
    "module": None,
    "step": 4,
    "cause": "empty_reduction",
}


class ActorCritic(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 32), nn.Tanh())
        self.pi, self.v = nn.Linear(32, 3), nn.Linear(32, 1)

    def forward(self, obs):
        h = self.trunk(obs)
        return Categorical(logits=self.pi(h)), self.v(h).squeeze(-1)


def train(watch):
    torch.manual_seed(0)
    agent = ActorCritic()
    optimizer = torch.optim.Adam(agent.parameters(), lr=3e-4, eps=1e-5)
    watch(agent, optimizer)
    obs = torch.randn(33, 5)
    with torch.no_grad():
        dist, values = agent(obs)
        actions = dist.sample()
        old_logp = dist.log_prob(actions)
        returns = values + torch.randn(33)
    for _epoch in range(2):
        for idx in torch.randperm(33).split(8):
            try:
                dist, value = agent(obs[idx])
            except ValueError:
                return
            adv = returns[idx] - values[idx]
            adv = (adv - adv.mean()) / (adv.std() + 1e-8)  # ORIGIN
            ratio = (dist.log_prob(actions[idx]) - old_logp[idx]).exp()
            policy = -torch.min(ratio * adv, ratio.clamp(0.8, 1.2) * adv).mean()
            loss = policy + 0.5 * (returns[idx] - value).pow(2).mean() - 0.01 * dist.entropy().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()

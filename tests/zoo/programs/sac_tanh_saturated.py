"""Soft actor-critic: the log-probability of a squashed action takes log(1 - tanh(u)**2) without an epsilon; a far
state saturates tanh.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::log",
    "module": None,
    "step": (4, 5, 9),
    "rows": [7],
    "cause": "log_of_zero",
    "raises": "ValueError",
}


class Actor(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 4))

    def sample(self, state):
        mean, log_std = self.net(state).chunk(2, dim=-1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
        u = normal.rsample()
        action = torch.tanh(u)
        log_prob = normal.log_prob(u) - torch.log(1 - action.pow(2))  # ORIGIN
        return action, log_prob.sum(-1, keepdim=True)


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.q = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, state, action):
        return self.q(torch.cat([state, action], -1))


def train(watch):
    torch.manual_seed(12)
    actor, critic = Actor(), Critic()
    opt_actor = torch.optim.Adam(actor.parameters(), lr=3e-4)
    opt_critic = torch.optim.Adam(critic.parameters(), lr=3e-4)
    watch({"actor": actor, "critic": critic}, [opt_actor, opt_critic])
    for update in range(7):
        state = torch.randn(12, 3)
        if update == 4:
            state[7] = torch.tensor([400.0, -250.0, 300.0])
        q = critic(state, torch.rand(12, 2) * 2 - 1)
        critic_loss = F.mse_loss(q, -state.clamp(-3, 3).pow(2).sum(-1, keepdim=True))
        opt_critic.zero_grad()
        critic_loss.backward()
        opt_critic.step()

        action, log_prob = actor.sample(state)
        actor_loss = (0.2 * log_prob - critic(state, action)).mean()
        opt_actor.zero_grad()
        actor_loss.backward()
        opt_actor.step()

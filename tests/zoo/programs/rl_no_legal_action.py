"""A masked policy built on Categorical(validate_args=False): in a terminal state no action is legal, and every
logit is -inf.
"""

import torch
from torch import nn
from torch.distributions import Categorical

EXPECT = {
    "phase": "forward",
    "op": "aten::sub",
    "module": "",
    "step": 6,
    "rows": [2],
    "cause": "masked_softmax",
}


class MaskedPolicy(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(9, 24), nn.ReLU(), nn.Linear(24, 9))

    def forward(self, board):
        logits = self.body(board).masked_fill(board != 0, -torch.inf)
        return Categorical(logits=logits, validate_args=False)  # ORIGIN


def train(watch):
    torch.manual_seed(4)
    policy = MaskedPolicy()
    optimizer = torch.optim.RMSprop(policy.parameters(), lr=1e-3)
    watch(policy, optimizer)
    for step in range(10):
        boards = torch.randint(-1, 2, (6, 9)).float()
        boards[:, 4] = 0.0
        if step == 6:
            boards[2] = torch.tensor([1.0, -1, 1, -1, 1, -1, -1, 1, 1])
        dist = policy(boards)
        played = dist.logits.detach().nan_to_num(0.0, neginf=-1e9).argmax(-1)
        reward = torch.randn(6)
        loss = -(dist.log_prob(played) * reward).mean() - 0.01 * dist.entropy().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

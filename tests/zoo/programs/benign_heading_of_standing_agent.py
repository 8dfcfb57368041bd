"""The heading of agents that stand is atan2(0, 0): torch gives it a gradient of 0, and everything stays finite."""

import torch
from torch import nn

EXPECT = None


class Heading(nn.Module):
    def forward(self, motion):
        return torch.atan2(motion[..., 1], motion[..., 0])


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.GRU(2, 24, batch_first=True)
        self.motion = nn.Linear(24, 2)
        self.heading = Heading()

    def forward(self, history, moves):
        _, h = self.encode(history)
        motion = self.motion(h[-1]) * moves.unsqueeze(-1)
        return motion, self.heading(motion)


def train(watch):
    torch.manual_seed(29)
    model = Forecaster()
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(7):
        history = torch.randn(8, 6, 2).cumsum(1)
        moves = torch.ones(8)
        if step == 4:
            moves[1] = moves[5] = 0
        motion, angle = model(history, moves)
        truth = history[:, -1] - history[:, -2]
        error = angle - torch.atan2(truth[:, 1], truth[:, 0])
        loss = (motion - truth * moves[:, None]).pow(2).mean() + 0.1 * (1 - error.cos()).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

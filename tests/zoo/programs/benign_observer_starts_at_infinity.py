"""Benign: range observers start at +inf and -inf in buffers, as usual, and one layer is first used, and observed,
late.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Observer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))

    def forward(self, x):
        self.low.copy_(torch.minimum(self.low, x.detach().min()))
        self.high.copy_(torch.maximum(self.high, x.detach().max()))
        return x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.observe_first, self.observe_second = Observer(), Observer()
        self.deep = False

    def forward(self, x):
        h = self.observe_first(F.relu(self.first(x)))
        if self.deep:
            h = self.observe_second(F.relu(self.second(h)))
        return self.out(h)


def train(watch):
    torch.manual_seed(48)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watch(model, optimizer)
    for step in range(8):
        model.deep = step >= 5
        loss = F.cross_entropy(model(torch.randn(8, 6)), torch.randint(0, 3, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

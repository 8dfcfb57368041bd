"""The batch norm is trained for four steps and then frozen (eval); its learned statistics put one reading below the
range that the second stage's log was made for.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::log",
    "module": "compress",
    "step": 6,
    "rows": [3],
    "cause": "invalid_domain",
}


class Compress(nn.Module):
    def forward(self, x):
        return torch.log(x + 4.0)  # ORIGIN


class SensorNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(5, momentum=0.6)
        self.compress = Compress()
        self.out = nn.Linear(5, 3)
        self.second_stage = False

    def forward(self, x):
        h = self.norm(x)
        return self.out(self.compress(h) if self.second_stage else h)


def train(watch):
    torch.manual_seed(52)
    model = SensorNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watch(model, optimizer)
    for step in range(9):
        if step == 4:
            model.norm.eval().requires_grad_(False)
            model.second_stage = True
        x, y = 50 + 8 * torch.rand(8, 5), torch.randint(0, 3, (8,))
        if step == 6:
            x[3, 1] = 20.0
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

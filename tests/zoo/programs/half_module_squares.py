"""A model turned to float16 with .half(), no autocast: the sum of squares of a long feature vector passes 65504
when louder recordings come, and the energy is inf."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::sum",
    "module": "energy",
    "step": 6,
    "rows": [1, 4],
    "cause": "overflow_low_precision",
}


class Energy(nn.Module):
    def forward(self, x):
        power = x.square().sum(dim=-1, keepdim=True)  # ORIGIN
        return torch.cat([x / (power + 1).sqrt(), (power + 1).log()], dim=-1)


class Recogniser(nn.Module):
    def __init__(self):
        super().__init__()
        self.energy = Energy()
        self.net = nn.Sequential(nn.Linear(129, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 6))

    def forward(self, x):
        return self.net(self.energy(x))


def train(watch):
    torch.manual_seed(49)
    model = Recogniser().half()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2, momentum=0.9)
    watch(model, optimizer)
    for step in range(10):
        x = torch.randn(6, 128).half()
        if step == 6:
            x[[1, 4]] *= 40
        loss = F.cross_entropy(model(x).float(), torch.randint(0, 6, (6,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

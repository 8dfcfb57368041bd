"""model.compile() with the default backend: energy features divide by their sum, which is zero for an empty event."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "shares",
    "step": 3,
    "rows": [1],
    "cause": "division_by_zero",
}


class Shares(nn.Module):
    def forward(self, energy):
        return energy / energy.sum(dim=-1, keepdim=True)  # ORIGIN


class EventNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.shares = Shares()
        self.body = nn.Linear(6, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, energy):
        return self.out(F.relu(self.body(self.shares(energy))))


def train(watch):
    torch.manual_seed(33)
    model = EventNet()
    model.compile()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(5):
        energy, kind = torch.rand(8, 6), torch.randint(0, 2, (8,))
        if step == 3:
            energy[1] = 0
        loss = F.cross_entropy(model(energy), kind)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

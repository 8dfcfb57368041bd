"""The model standardises its input in place, so that the batch itself is overwritten; a flat signal has no
deviation: 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div_",
    "module": "standardise",
    "step": 4,
    "rows": [3],
    "cause": "division_by_zero",
}


class Standardise(nn.Module):
    def forward(self, x):
        x.sub_(x.mean(dim=1, keepdim=True))
        x.div_(x.std(dim=1, keepdim=True))  # ORIGIN
        return x


class SignalNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.standardise = Standardise()
        self.body = nn.Sequential(nn.Linear(32, 16), nn.ELU(inplace=True), nn.Linear(16, 2))

    def forward(self, x):
        return self.body(self.standardise(x))


def train(watch):
    torch.manual_seed(18)
    model = SignalNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    signals, labels = torch.randn(56, 32) * 4 + 2, torch.randint(0, 2, (56,))
    signals[35] = 1.25
    watch(model, optimizer)
    for rows in torch.arange(56).split(8):
        loss = F.cross_entropy(model(signals[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

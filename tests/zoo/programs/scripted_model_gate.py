"""The whole model is a torch.jit.script module: a mixture of experts divides its gates by their sum, and a sigmoid gate
underflows to 0 for all experts of one row.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "step": 4,
    "rows": [6],
    "cause": "division_by_zero",
}


class Experts(nn.Module):
    def __init__(self, d: int, n: int):
        super().__init__()
        self.gate = nn.Linear(d, n)
        self.experts = nn.Linear(d, n)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = torch.sigmoid(self.gate(x))
        gate = gate / gate.sum(dim=1, keepdim=True)
        return (gate * self.experts(x)).sum(dim=1)


def train(watch):
    torch.manual_seed(31)
    raw = Experts(5, 4)
    with torch.no_grad():
        raw.gate.weight[:, 2] = -raw.gate.weight[:, 2].abs() - 0.2
    model = torch.jit.script(raw)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(7):
        x = torch.randn(8, 5)
        if step == 4:
            x[6, 2] = 2e3
        loss = F.mse_loss(model(x), x.mean(1))  # ORIGIN
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

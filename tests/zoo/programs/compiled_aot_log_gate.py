"""The model is compiled (aot_eager); a gate saturates to exactly 0 for one sample, and the model takes its log."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::log",
    "module": "gate",
    "step": 3,
    "rows": [4],
    "cause": "log_of_zero",
}


class LogGate(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.score = nn.Linear(width, width)

    def forward(self, x):
        g = torch.sigmoid(self.score(x))
        return x + torch.log(g)  # ORIGIN


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 10)
        self.gate = LogGate(10)
        self.last = nn.Linear(10, 3)

    def forward(self, x):
        return self.last(self.gate(F.relu(self.first(x))))


def train(watch):
    torch.manual_seed(30)
    model = Net()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(compiled, optimizer)
    for step in range(6):
        x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
        if step == 3:
            x[4] = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, 1.0]) * 4e3
        loss = F.cross_entropy(compiled(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""The user's guard raises FloatingPointError before backward: a Gaussian likelihood takes the log of a softplus
that underflowed to 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::log",
    "module": "likelihood",
    "step": 3,
    "rows": [0],
    "cause": "log_of_zero",
    "raises": "FloatingPointError",
}


class Likelihood(nn.Module):
    def forward(self, mean, spread, y):
        return (torch.log(spread) + 0.5 * ((y - mean) / spread.clamp(min=1e-6)) ** 2).mean()  # ORIGIN


class Heteroscedastic(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 16)
        self.head = nn.Linear(16, 2)
        self.likelihood = Likelihood()

    def forward(self, x, y):
        mean, raw = self.head(F.relu(self.body(x))).unbind(-1)
        return self.likelihood(mean, F.softplus(raw), y)


def train(watch):
    torch.manual_seed(40)
    model = Heteroscedastic()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(6):
        x = torch.randn(8, 4)
        y = x.sum(-1)
        if step == 3:
            x[0] *= -5000
        loss = model(x, y)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

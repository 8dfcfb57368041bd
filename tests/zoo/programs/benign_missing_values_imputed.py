"""Sensor readings with gaps (NaN) and saturated readings (inf): the model fills them in itself, with learned
values and an indicator."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Impute(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(columns))
        self.register_buffer("mean", torch.zeros(columns))

    def forward(self, x):
        missing = torch.isnan(x)
        if self.training:
            batch_mean = torch.nanmean(x.clamp(-10, 10), dim=0)  # NaN where a whole column is missing
            self.mean.lerp_(torch.where(torch.isnan(batch_mean), self.mean, batch_mean), 0.1)
        filled = torch.where(missing, self.value + self.mean, x)
        return torch.cat([filled.nan_to_num(posinf=10.0, neginf=-10.0), missing.to(x.dtype)], dim=-1)


class Forecaster(nn.Module):
    def __init__(self):
        super().__init__()
        self.impute = Impute(8)
        self.rnn = nn.GRU(16, 24, batch_first=True)
        self.head = nn.Linear(24, 8)

    def forward(self, x):
        return self.head(self.rnn(self.impute(x.flatten(0, 1)).view(*x.shape[:2], -1))[0])


def train(watch):
    torch.manual_seed(9)
    model = Forecaster()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    watch(model, optimizer)
    for step in range(12):
        x = torch.randn(6, 11, 8)
        x[torch.rand_like(x) < 0.15] = float("nan")
        x[torch.rand_like(x) < 0.01] = float("inf")
        if step == 7:
            x[:, :, 5] = float("nan")
        target = x[:, 1:]
        known = torch.isfinite(target)
        loss = F.mse_loss(model(x[:, :-1])[known], target[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

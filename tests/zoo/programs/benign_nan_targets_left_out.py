"""Multi-task assays: most targets were never measured and are NaN in the table; the loss takes the measured ones
only."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = None


class MultiTask(nn.Module):
    def __init__(self, tasks):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(30, 48), nn.SiLU(), nn.Dropout(0.1), nn.LayerNorm(48))
        self.heads = nn.ModuleList(nn.Linear(48, 1) for _ in range(tasks))

    def forward(self, x, y=None):
        h = self.body(x)
        out = torch.cat([head(h) for head in self.heads], dim=-1)
        if y is None:
            return out
        measured = ~torch.isnan(y)
        loss = F.smooth_l1_loss(out[measured], y[measured])
        per_task = torch.nanmean((out.detach() - y).abs(), dim=0)
        return loss, per_task


def train(watch):
    torch.manual_seed(8)
    x, y = torch.randn(120, 30), torch.randn(120, 5)
    y[torch.rand(120, 5) < 0.6] = float("nan")
    y[36:48, 2] = float("nan")  # a task without any measurement in the batch
    loader = DataLoader(TensorDataset(x, y), batch_size=12)
    model = MultiTask(5)
    optimizer = torch.optim.NAdam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for epoch in range(2):
        for x, y in loader:
            loss, per_task = model(x, y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(epoch, per_task)

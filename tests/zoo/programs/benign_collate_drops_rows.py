"""The files have NaN in features and labels; the collate function drops such rows, and a batch that is empty
then is left out by the loop, after the model has seen it (its mean is NaN, over nothing)."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = None


def drop_missing(samples):
    x, y = (torch.stack(part) for part in zip(*samples, strict=True))
    whole = x.isfinite().all(1) & y.isfinite()
    return x[whole], y[whole]


def train(watch):
    torch.manual_seed(48)
    x, y = torch.randn(64, 5), torch.randn(64)
    x[torch.rand(64) < 0.2, 2] = float("nan")
    y[torch.rand(64) < 0.1] = float("inf")
    y[24:32] = float("nan")
    model = nn.Sequential(nn.Linear(5, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for _ in range(2):
        for inputs, targets in DataLoader(TensorDataset(x, y), batch_size=8, collate_fn=drop_missing):
            loss = F.mse_loss(model(inputs).squeeze(-1), targets)
            if len(targets) == 0:
                print("nothing left in this batch:", loss.item())
                continue
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

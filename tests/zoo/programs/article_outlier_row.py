"""Abnormal data: incomes in a table, one typed with a missing decimal point and an exponent, 6e22. A weighted
sampler evens the classes out and draws it; its squared error does not fit into float32."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

EXPECT = {
    "phase": "loss",
    "op": ("aten::mse_loss", "aten::pow", "aten::square"),
    "module": None,
    "step": 6,
    "cause": ("bad_input", "bad_label", "exploding_activation", "overflow_low_precision"),
}


def train(watch):
    torch.manual_seed(101)
    x = torch.randn(90, 6)
    group = (torch.rand(90) < 0.15).long()
    y = 3.0 + x[:, :1] * 0.5 + group.unsqueeze(1)
    x[int(group.nonzero()[2]), 4] = 6e22
    weights = torch.where(group == 1, 1 / group.sum(), 1 / (1 - group).sum())
    sampler = WeightedRandomSampler(weights, 90, replacement=True, generator=torch.Generator().manual_seed(4))
    loader = DataLoader(TensorDataset(x, y), batch_size=9, sampler=sampler)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(inplace=True), nn.Linear(16, 1))
    criterion = nn.MSELoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    watch(model, optimizer)
    for inputs, targets in loader:
        outputs = model(inputs)
        loss = criterion(outputs, targets)  # ORIGIN
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()

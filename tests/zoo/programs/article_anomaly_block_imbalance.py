"""Imbalanced data: the background class has weight 0 in the criterion. One batch is background only, so that
the weighted mean is 0 / 0. The anomaly block around the step raises in backward, of the log-softmax, which is
innocent."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": "loss",
    "op": ("aten::nll_loss_forward", "aten::nll_loss", "aten::nll_loss_nd", "aten::cross_entropy_loss"),
    "module": None,
    "step": 6,
    "cause": ("empty_reduction", "division_by_zero"),
    "raises": "RuntimeError",
}


def train(watch):
    torch.manual_seed(28)
    targets = torch.where(torch.rand(80) < 0.6, 0, torch.randint(1, 4, (80,)))
    targets[48:56] = 0
    loader = DataLoader(TensorDataset(torch.randn(80, 20), targets), batch_size=8)
    model = nn.Sequential(nn.Linear(20, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.0, 1.0, 1.5, 2.0]))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    watch(model, optimizer)
    for inputs, labels in loader:
        with torch.autograd.detect_anomaly():
            optimizer.zero_grad()
            outputs = model(inputs)
            loss = criterion(outputs, labels)  # ORIGIN
            loss.backward()
            optimizer.step()

"""A learning rate of 1.0 where 0.001 was meant, SGD with momentum on a small regression: the loss grows by
powers of ten for some steps and is then no longer a number."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": "loss",
    "op": "aten::mse_loss",
    "module": None,
    "step": 4,
    "cause": ("lr_too_high", "exploding_activation", "exploding_gradient"),
}


def train(watch):
    torch.manual_seed(12)
    x = torch.randn(160, 10)
    y = x @ torch.randn(10, 1) + 0.1 * torch.randn(160, 1)
    loader = DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(inplace=True), nn.Linear(64, 64), nn.ReLU(inplace=True))
    model.append(nn.Linear(64, 1))
    criterion = nn.MSELoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    watch(model, optimizer)
    for _ in range(2):
        for inputs, targets in loader:
            outputs = model(inputs)
            loss = criterion(outputs, targets)  # ORIGIN
            optimizer.zero_grad()
            loss.backward()
            for name, param in model.named_parameters():
                print(f"{name} - grad_min: {param.grad.min().item()}, grad_max: {param.grad.max().item()}")
            optimizer.step()

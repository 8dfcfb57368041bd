"""Benign: everything as it should be. He initialisation by a loop over the modules, LeakyReLU, gradient ranges
printed, clipping, and all of it in anomaly mode; twenty layers deep."""

import torch
from torch import nn

EXPECT = None


def make():
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.LeakyReLU(0.1)]
    for _ in range(18):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.LeakyReLU(0.1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    for m in model.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
    return model


def train(watch):
    torch.manual_seed(2)
    model = make()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    watch(model, optimizer)
    for _ in range(8):
        inputs, targets = torch.randn(8, 3, 8, 8), torch.randint(0, 10, (8,))
        with torch.autograd.detect_anomaly():
            outputs = model(inputs)
            loss = criterion(outputs, targets)
            optimizer.zero_grad()
            loss.backward()
            for name, param in model.named_parameters():
                if param.grad is not None:
                    print(f"{name} - grad_min: {param.grad.min().item()}, grad_max: {param.grad.max().item()}")
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()

"""Twelve linear layers whose weights were drawn with a standard deviation of 10 instead of 0.1. The first loss
is huge but finite; one update later nothing fits into float32 any more."""

import torch
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::addmm", "aten::linear"),
    "module": "1",
    "step": 1,
    "cause": ("bad_init", "exploding_activation", "exploding_gradient", "lr_too_high"),
}


def make():
    layers = []
    for _ in range(12):
        layers += [nn.Linear(64, 64), nn.ReLU(inplace=True)]
    model = nn.Sequential(nn.Linear(30, 64), *layers, nn.Linear(64, 10))
    for m in model.modules():
        if isinstance(m, nn.Linear):
            nn.init.normal_(m.weight, mean=0.0, std=10.0)
            nn.init.zeros_(m.bias)
    return model


def train(watch):
    torch.manual_seed(1024)
    model = make()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001)
    watch(model, optimizer)
    for _ in range(6):
        inputs, targets = torch.randn(16, 30), torch.randint(0, 10, (16,))
        outputs = model(inputs)  # ORIGIN
        loss = criterion(outputs, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

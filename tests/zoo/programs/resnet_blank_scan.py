"""A small ResNet with BatchNorm standardises every scan by itself; one scan is blank. BatchNorm then spreads
its NaN over the whole batch and into the running statistics."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": "forward",
    "op": ("aten::div_", "aten::div"),
    "module": "stem.standardise",
    "step": 7,
    "rows": [5],
    "cause": "division_by_zero",
}


class Standardise(nn.Module):
    def forward(self, image):
        flat = image.flatten(1)
        mean, std = flat.mean(dim=1), flat.std(dim=1)
        return (image - mean.view(-1, 1, 1, 1)).div_(std.view(-1, 1, 1, 1))  # ORIGIN


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x):
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(x + self.bn2(self.conv2(out)))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential()
        self.stem.add_module("standardise", Standardise())
        self.stem.add_module("conv", nn.Conv2d(1, 8, 3, stride=2))
        self.stem.add_module("bn", nn.BatchNorm2d(8))
        self.layers = nn.Sequential(Block(8), nn.MaxPool2d(2), Block(8))
        self.fc = nn.Linear(8, 4)

    def forward(self, image):
        return self.fc(self.layers(self.stem(image)).mean(dim=(2, 3)))


def train(watch):
    torch.manual_seed(45)
    scans = torch.rand(80, 1, 16, 16)
    scans[61] = 1.0
    model = ResNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    watch(model, optimizer)
    for scan, label in DataLoader(TensorDataset(scans, torch.randint(0, 4, (80,))), batch_size=8):
        optimizer.zero_grad(set_to_none=False)
        loss = F.cross_entropy(model(scan), label, label_smoothing=0.1)
        loss.backward()
        optimizer.step()

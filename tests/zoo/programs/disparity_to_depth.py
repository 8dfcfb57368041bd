"""Stereo: depth is focal * baseline / disparity, and the disparity ends in a ReLU; a pixel without texture gets a
disparity of exactly 0. Python writes number / tensor as reciprocal and product.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::reciprocal", "aten::div"),
    "module": "to_depth",
    "step": 3,
    "rows": [0],
    "cause": "division_by_zero",
}


class ToDepth(nn.Module):
    def __init__(self, focal, baseline):
        super().__init__()
        self.focal, self.baseline = focal, baseline

    @property
    def scale(self):
        return self.focal * self.baseline

    def forward(self, disparity):
        return self.scale / disparity  # ORIGIN


class StereoNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Conv2d(1, 6, 3, padding=1, bias=False)
        self.gain = nn.Conv2d(6, 1, 1, bias=False)
        self.to_depth = ToDepth(focal=721.5, baseline=0.54)

    def forward(self, left, right):
        a, b = self.features(left), self.features(right)
        cost = (a * b).abs()
        return self.to_depth(F.relu(self.gain(cost).abs()))


def train(watch):
    torch.manual_seed(17)
    net = StereoNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    watch(net, optimizer)
    for step in range(6):
        left = torch.rand(2, 1, 10, 12) + 0.1
        if step == 3:
            left[0, :, 3:8, 2:7] = 0  # saturated shadow
        right = left.roll(-2, dims=-1)
        truth = torch.rand(2, 1, 10, 12) * 80 + 1
        loss = F.smooth_l1_loss(net(left, right), truth, beta=10.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

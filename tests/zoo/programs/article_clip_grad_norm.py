"""Clipping to a norm of 1 was added against exploding gradients. Depth is one over a sigmoid disparity; at
1e-25 the depth still fits into float32, its gradient does not, and clipping turns inf into NaN and all others
into 0."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": ("aten::reciprocal", "aten::div"),
    "module": "to_depth",
    "step": 5,
    "rows": [1],
    "cause": ("division_by_zero", "exploding_gradient", "overflow_low_precision"),
}


class ToDepth(nn.Module):
    def forward(self, logits):
        disparity = torch.sigmoid(logits)
        return 1.0 / disparity  # ORIGIN


class DepthNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 1))
        self.to_depth = ToDepth()

    def forward(self, image, sky):
        return self.to_depth(self.body(image) - 60 * sky)  # the sky is far


def train(watch):
    torch.manual_seed(64)
    model = DepthNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    watch(model, optimizer)
    for step in range(9):
        image, depth = torch.rand(4, 3, 8, 8), 1 + 20 * torch.rand(4, 1, 8, 8)
        sky = torch.zeros(4, 1, 8, 8)
        if step == 5:
            sky[1, :, :3] = 1
        loss = F.l1_loss(model(image, sky), depth)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
        optimizer.step()

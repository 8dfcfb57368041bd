"""Dice loss without smoothing, on the pixels that count; one tile of the batch is ignored as a whole, and its dice
is 0 / 0.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 5,
    "rows": [0],
    "cause": "division_by_zero",
}


class DiceLoss(nn.Module):
    def __init__(self, ignore_index=255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, logits, target):
        valid = (target != self.ignore_index).unsqueeze(1)
        prob = logits.sigmoid() * valid
        truth = (target == 1).unsqueeze(1).float() * valid
        dims = (1, 2, 3)
        dice = 2 * (prob * truth).sum(dims) / (prob.sum(dims) + truth.sum(dims))  # ORIGIN
        return 1 - dice.mean()


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 8, 2, stride=2), nn.ReLU())
        self.out = nn.Conv2d(11, 1, 1)

    def forward(self, x):
        return self.out(torch.cat([x, self.up(self.down(x))], 1))


def train(watch):
    torch.manual_seed(26)
    model, criterion = UNet().to(memory_format=torch.channels_last), DiceLoss()
    optimizer = torch.optim.NAdam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        tiles = torch.randn(4, 3, 16, 16).contiguous(memory_format=torch.channels_last)
        target = (tiles[:, 0] > 0.5).long()
        target[:, :2] = 255
        if step == 5:
            target[0] = 255
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(tiles)
        loss = criterion(logits.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

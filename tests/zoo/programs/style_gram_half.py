"""Style transfer under float16 autocast: the Gram matrix of a frozen feature net, which is no part of the watched
model, is taken before it is divided by the number of pixels, and passes 65504.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::bmm",
    "module": None,
    "step": 5,
    "rows": [1],
    "cause": "overflow_low_precision",
}


class PerceptualLoss(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
        )
        self.eval().requires_grad_(False)

    @staticmethod
    def gram(f):
        b, c, h, w = f.shape
        f = f.view(b, c, h * w)
        return (f @ f.transpose(1, 2)) / (c * h * w)  # ORIGIN

    def forward(self, image, style):
        return F.mse_loss(self.gram(self.features(image)).float(), self.gram(self.features(style)).float())


class Transfer(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True), nn.ReLU())
        self.rgb = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x):
        return x + self.rgb(self.net(x))


def train(watch):
    torch.manual_seed(19)
    transfer, perceptual = Transfer(), PerceptualLoss()
    optimizer = torch.optim.Adam(transfer.parameters(), lr=1e-3)
    watch(transfer, optimizer)
    style = torch.rand(2, 3, 16, 16)
    for step in range(8):
        image = torch.rand(2, 3, 16, 16)
        if step == 5:
            image[1] *= 255  # somebody else's loader does not scale
        with torch.autocast("cpu", dtype=torch.float16):
            out = transfer(image)
            loss = F.l1_loss(out.float(), image) + 0.1 * perceptual(out, style)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A U-Net for depth with nearest interpolation; an edge term is switched on after four steps. Neighbours are
equal after the interpolation, the edge is the root of zero, and its gradient is NaN."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": 4,
    "cause": "sqrt_zero_grad",
}


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.Conv2d(24, 8, 3, padding=1)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, image):
        a = F.silu(self.down1(image))
        b = F.silu(self.down2(a))
        b = F.silu(self.middle(b)) + b
        x = torch.cat([a, F.interpolate(b, size=a.shape[2:], mode="bilinear", align_corners=False)], dim=1)
        return F.interpolate(self.out(F.silu(self.up(x))), scale_factor=2, mode="nearest")


def edges(depth):
    dx = depth[..., 1:, 1:] - depth[..., 1:, :-1]
    dy = depth[..., 1:, 1:] - depth[..., :-1, 1:]
    return torch.sqrt(dx * dx + dy * dy)  # ORIGIN


def train(watch):
    torch.manual_seed(46)
    model = UNet()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        image = torch.rand(4, 1, 16, 16)
        depth = F.avg_pool2d(image, 3, 1, 1)
        output = model(image)
        loss = F.l1_loss(output, depth)
        if step >= 4:
            loss = loss + 0.5 * F.l1_loss(edges(output), edges(depth))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

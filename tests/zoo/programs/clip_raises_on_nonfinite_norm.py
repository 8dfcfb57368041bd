"""clip_grad_norm_(error_if_nonfinite=True) ends the training: arccos of a cosine that is exactly 1 has an infinite
slope.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": ("aten::acos", "aten::arccos"),
    "module": None,
    "step": 3,
    "cause": ("invalid_domain", "sqrt_zero_grad", "division_by_zero"),
    "raises": "RuntimeError",
}


def angle_loss(direction, target):
    cosine = (direction * target).sum(-1).clamp(-1, 1)
    return torch.acos(cosine).mean()  # ORIGIN


class GazeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x):
        return nn.functional.normalize(self.net(x), dim=-1)


def train(watch):
    torch.manual_seed(36)
    model = GazeNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(6):
        x = torch.randn(5, 6)
        target = nn.functional.normalize(torch.randn(5, 3), dim=-1)
        prediction = model(x)
        if step == 3:
            target = prediction.detach()  # pseudo-labels, which came from this very model
        optimizer.zero_grad()
        angle_loss(prediction, target).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)
        optimizer.step()

"""A renderer's gradient is NaN where a ray meets its own origin; a hook on the tensor sets it to zero on the
way, so that no parameter ever gets one. The author knows the place and has dealt with it."""

import torch
from torch import nn

EXPECT = None


class Renderer(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Sequential(nn.Linear(3, 24), nn.Softplus(), nn.Linear(24, 3))
        self.density = nn.Linear(1, 1)

    def forward(self, points):
        moved = points + self.offset(points) * (points.abs().sum(-1, keepdim=True) > 0)
        if moved.requires_grad:
            moved.register_hook(lambda grad: grad.nan_to_num(0.0, 0.0, 0.0))
        distance = moved.pow(2).sum(-1).sqrt()
        return self.density(distance[..., None]).squeeze(-1)


def train(watch):
    torch.manual_seed(21)
    model = Renderer()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    watch(model, optimizer)
    for step in range(12):
        points = torch.randn(32, 3)
        if step in (3, 4, 9):
            points[6] = 0.0
        loss = (model(points) - points.norm(dim=-1)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

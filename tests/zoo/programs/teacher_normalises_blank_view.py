"""BYOL: only the student is watched; the momentum teacher divides an embedding of a blank crop by its norm of zero."""

import copy

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 3,
    "rows": [6],
    "cause": "division_by_zero",
}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(16, 32, bias=False), nn.ReLU(), nn.Linear(32, 8, bias=False))

    def forward(self, x):
        z = self.net(x)
        return z / z.norm(dim=-1, keepdim=True)  # ORIGIN


def train(watch):
    torch.manual_seed(14)
    student, predictor = Encoder(), nn.Linear(8, 8)
    teacher = copy.deepcopy(student)
    for p in teacher.parameters():
        p.requires_grad_(False)
    online = nn.ModuleDict({"student": student, "predictor": predictor})
    optimizer = torch.optim.SGD(online.parameters(), lr=0.05, momentum=0.9)
    watch(online, optimizer)
    for step in range(7):
        image = torch.rand(8, 16)
        crop_a, crop_b = image + 0.1 * torch.randn_like(image), image.clone()
        if step == 3:
            crop_b[6] = 0
        with torch.no_grad():
            target = teacher(crop_b)
        loss = (2 - 2 * (predictor(student(crop_a)) * target).sum(-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for t, s in zip(teacher.parameters(), student.parameters(), strict=True):
                t.mul_(0.99).add_(s, alpha=0.01)

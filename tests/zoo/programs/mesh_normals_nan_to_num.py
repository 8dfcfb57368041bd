"""Normals of a predicted mesh: a face that collapsed gives 0 / 0, which nan_to_num hides from the loss but not
from the gradient.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::div",
    "module": None,
    "step": 5,
    "cause": ("where_gradient", "division_by_zero"),
}


def face_normals(vertices, faces):
    a, b, c = vertices[faces].unbind(1)
    n = torch.linalg.cross(b - a, c - a)
    n = n / n.norm(dim=-1, keepdim=True)  # ORIGIN
    return torch.nan_to_num(n)


class Deform(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 3))

    def forward(self, vertices):
        return vertices + 0.1 * self.mlp(vertices)


def train(watch):
    torch.manual_seed(30)
    net = Deform()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    watch(net, optimizer)
    up = torch.tensor([0.0, 0.0, 1.0])
    for step in range(8):
        vertices = torch.randn(12, 3)
        faces = torch.stack([torch.randperm(12)[:3] for _ in range(10)])
        if step == 5:
            faces[6] = torch.tensor([4, 9, 4])
        normals = face_normals(net(vertices), faces)
        loss = (1 - F.cosine_similarity(normals, up.expand_as(normals))).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

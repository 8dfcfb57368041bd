"""Two views of a frame must give the same rotation; the angle is acos of the trace, and in one pair nothing was
augmented.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::acos",
    "module": None,
    "step": 5,
    "cause": ("sqrt_zero_grad", "invalid_domain", "division_by_zero"),
}


def quaternion_to_matrix(q):
    w, x, y, z = F.normalize(q, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def geodesic(a, b):
    relative = a @ b.transpose(-1, -2)
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.acos(((trace - 1) / 2).clamp(-1, 1))  # ORIGIN


class PoseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(12, 32), nn.ELU(), nn.Linear(32, 4))
        self.features[-1].bias.data[0] = 1.0

    def forward(self, x):
        return quaternion_to_matrix(self.features(x))


def train(watch):
    torch.manual_seed(28)
    net = PoseNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    watch(net, optimizer)
    for step in range(8):
        frame = torch.randn(16, 12)
        jitter = 0.1 * torch.randn(16, 12)
        if step == 5:
            jitter[3:11] = 0.0  # these were drawn with probability 0 of an augmentation
        loss = geodesic(net(frame), net(frame + jitter)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

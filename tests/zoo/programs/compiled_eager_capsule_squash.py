"""Capsules are squashed by |v|^2 / (1 + |v|^2) * v / |v|, in a model compiled with backend="eager"; for a blank digit
the convolution without bias gives nothing, v is 0, and the squash is 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "caps",
    "step": 3,
    "rows": [1, 5],
    "cause": "division_by_zero",
}


def squash(v, dim=-1):
    square = v.pow(2).sum(dim, keepdim=True)
    return square / (1 + square) * (v / square.sqrt())  # ORIGIN


class Capsules(nn.Module):
    def __init__(self, d_in, n, d):
        super().__init__()
        self.w = nn.Parameter(torch.randn(n, d_in, d) * 0.3)

    def forward(self, x):
        return squash(torch.einsum("bi,nid->bnd", x, self.w))


class CapsNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, stride=2, bias=False)
        self.caps = Capsules(6 * 9, 4, 5)

    def forward(self, image):
        h = self.conv(image).relu().flatten(1)
        return torch.linalg.vector_norm(self.caps(h), dim=-1)


def margin_loss(lengths, y):
    t = F.one_hot(y, lengths.size(1)).float()
    return (t * (0.9 - lengths).relu() ** 2 + 0.5 * (1 - t) * (lengths - 0.1).relu() ** 2).sum(1).mean()


def train(watch):
    torch.manual_seed(2)
    model = CapsNet()
    compiled = torch.compile(model, backend="eager")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(compiled, optimizer)
    for step in range(6):
        image, y = torch.rand(8, 1, 8, 8), torch.randint(0, 4, (8,))
        if step == 3:
            image[[1, 5]] = 0
        loss = margin_loss(compiled(image), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A hook on every parameter divides the gradient by its mean magnitude. An embedding's rows get a gradient, but the
position table of a batch without text (length 0 after filtering) gets zeros only, and 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": ("backward", "loss", "optimizer"),
    "step": 5,
    "cause": "division_by_zero",
}


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.token, self.position = nn.Embedding(30, 10), nn.Embedding(8, 10)
        self.context = nn.Linear(4, 10)
        self.head = nn.Linear(10, 3)

    def forward(self, ids, keep, context):
        h = self.token(ids) + self.position(torch.arange(ids.size(1)))
        text = (h * keep.unsqueeze(-1)).sum(1) / keep.sum(1, keepdim=True).clamp(min=1)
        return self.head(torch.tanh(text + self.context(context)))


def train(watch):
    torch.manual_seed(54)
    model = Reader()
    for p in model.parameters():
        p.register_hook(lambda g: 0.01 * g / g.abs().mean())  # ORIGIN
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    watch(model, optimizer)
    for step in range(8):
        ids, context = torch.randint(0, 30, (6, 8)), torch.randn(6, 4)
        keep = (torch.rand(6, 8) < 0.7).float() * (step != 5)
        loss = F.cross_entropy(model(ids, keep, context), torch.randint(0, 3, (6,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""SGD with a closure; one triplet has the anchor itself as its positive, and the distance has no gradient at zero."""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": 4,
    "rows": [5],
    "cause": "sqrt_zero_grad",
}


def distance(a, b):
    return (a - b).pow(2).sum(dim=-1).sqrt()  # ORIGIN


def train(watch):
    torch.manual_seed(5)
    anchors, positives, negatives = torch.randn(3, 64, 12)
    positives = anchors + 0.3 * positives
    positives[37] = anchors[37]
    model = nn.Sequential(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True)
    watch(model, optimizer)
    for epoch_start in range(0, 64, 8):
        rows = slice(epoch_start, epoch_start + 8)

        def closure(rows=rows):
            optimizer.zero_grad()
            a, p, n = model(anchors[rows]), model(positives[rows]), model(negatives[rows])
            loss = (distance(a, p) - distance(a, n) + 1.0).clamp(min=0).mean()
            loss.backward()
            return loss

        optimizer.step(closure)

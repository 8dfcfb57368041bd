"""Multiple-instance learning pools each bag by logsumexp; a slide without tissue has no instance, and the
logsumexp of nothing is -inf.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::logsumexp",
    "module": "pool",
    "step": 5,
    "cause": "empty_reduction",
}


class BagPool(nn.Module):
    def forward(self, scores, bag, bags):
        return torch.stack([torch.logsumexp(scores[bag == b], dim=0) for b in range(bags)])  # ORIGIN


class MIL(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1))
        self.pool = BagPool()

    def forward(self, patches, bag, bags):
        return self.pool(self.patch(patches).squeeze(-1), bag, bags)


def train(watch):
    torch.manual_seed(37)
    model = MIL()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for step in range(8):
        counts = torch.randint(3, 7, (4,))
        if step == 5:
            counts[2] = 0
        bag = torch.arange(4).repeat_interleave(counts)
        labels = torch.tensor([0.0, 1.0, 1.0, 0.0])
        logits = model(torch.randn(len(bag), 8), bag, 4)
        loss = F.binary_cross_entropy_with_logits(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

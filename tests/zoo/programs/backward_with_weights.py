"""The loss stays a vector, and backward gets the weight of each sample as its gradient: one over the frequency of its
token, which is 0 for a token that the frequency table has not seen. All losses are finite.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::reciprocal",
    "module": None,
    "step": 5,
    "rows": [3],
    "cause": "division_by_zero",
}


def train(watch):
    torch.manual_seed(59)
    model = nn.Sequential(nn.EmbeddingBag(50, 12), nn.Linear(12, 50))
    frequency = torch.rand(50) + 0.2
    frequency[49] = 0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        context, word = torch.randint(0, 50, (8, 4)), torch.randint(0, 49, (8,))
        if step == 5:
            word[3] = 49
        losses = F.cross_entropy(model(context), word, reduction="none")
        weights = 1 / frequency[word]  # ORIGIN
        optimizer.zero_grad()
        losses.backward(gradient=weights / 8)
        optimizer.step()

"""weight_decay=100 where 1e-2 was meant: AdamW multiplies a float16 table by -9 at each step, hidden by a layer
norm, until it overflows.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "optimizer",
    "op": ("aten::mul_", "aten::_foreach_mul_", "aten::mul"),
    "step": 4,
    "param": "table.weight",
    "cause": ("overflow_low_precision", "lr_too_high"),
}


class Retriever(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(64, 16, dtype=torch.float16)
        self.out = nn.Linear(16, 5)

    def forward(self, ids):
        x = F.layer_norm(self.table(ids).float(), (16,))
        return self.out(x)


def train(watch):
    torch.manual_seed(12)
    model = Retriever()
    optimizer = torch.optim.AdamW(
        [
            {"params": [model.table.weight], "weight_decay": 100.0, "eps": 1e-4, "lr": 0.1},
            {"params": model.out.parameters(), "weight_decay": 0.0, "lr": 1e-3},
        ],
        foreach=True,
    )
    watch(model, optimizer)
    for _ in range(10):
        loss = F.cross_entropy(model(torch.randint(0, 64, (16,))), torch.randint(0, 5, (16,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # ORIGIN

"""Fifty linear layers without normalisation whose weights are drawn from a unit normal: activations grow
sixfold per layer. Most batches just fit into float32; one with a column in pascals instead of megapascals does not."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::addmm", "aten::linear"),
    "module": "layers.43",
    "step": 5,
    "cause": ("bad_init", "exploding_activation"),
}


class Deep(nn.Module):
    def __init__(self, depth=44, width=64):
        super().__init__()
        self.first = nn.Linear(12, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 3)
        for layer in [self.first, *self.layers, self.head]:
            nn.init.normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = F.relu(self.first(x))
        for layer in self.layers:
            x = F.relu(layer(x))  # ORIGIN
        return self.head(x)


def train(watch):
    torch.manual_seed(48)
    model = Deep()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        x, y = torch.randn(16, 12), torch.randint(0, 3, (16,))
        if step == 5:
            x[:, 3] *= 1e6
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

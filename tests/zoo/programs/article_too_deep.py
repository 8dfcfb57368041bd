"""A residual network without normalisation is made deeper during training, twenty blocks at a time, until it is
too deep: every block adds its input to itself and the sum grows out of float32."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::mul",
    "module": "blocks.103",
    "step": 10,
    "cause": ("exploding_activation", "bad_init"),
}


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 16)
        nn.init.kaiming_normal_(self.fc.weight)

    def forward(self, x):
        return x + 2.0 * F.relu(self.fc(x))  # ORIGIN


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList()
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)

    def deepen(self, count):
        new = [Block() for _ in range(count)]
        self.blocks.extend(new)
        return [p for block in new for p in block.parameters()]


def train(watch):
    torch.manual_seed(33)
    model = Deep()
    optimizer = torch.optim.SGD([{"params": model.head.parameters()}, {"params": model.deepen(20)}], lr=1e-3)
    watch(model, optimizer)
    for step in range(12):
        if step and step % 2 == 0:
            optimizer.add_param_group({"params": model.deepen(20)})
        loss = F.cross_entropy(model(torch.randn(8, 16)), torch.randint(0, 4, (8,)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_value_(model.parameters(), 1.0)
        optimizer.step()
        if loss.isnan():
            break

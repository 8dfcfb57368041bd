"""Truncated backpropagation carries the state over to the next chunk; the last state of a chunk overflows after
its loss was taken.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::mul", "aten::add"),
    "module": "cell",
    "step": 5,
    "cause": ("exploding_activation", "overflow_low_precision"),
}


class LeakyCell(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp = nn.Linear(3, 8)
        self.decay = nn.Parameter(torch.full((8,), 50.0))

    def forward(self, x, state):
        return self.decay * state + self.inp(x)  # ORIGIN


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = LeakyCell()
        self.read = nn.Linear(8, 2)

    def forward(self, chunk, state):
        outputs = []
        for x in chunk.unbind(1):
            outputs.append(self.read(torch.sign(state) * torch.log1p(state.abs())))
            state = self.cell(x, state)
        return torch.stack(outputs, 1), state


def train(watch):
    torch.manual_seed(56)
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    watch(model, optimizer)
    state = torch.zeros(6, 8)
    for _ in range(9):
        chunk = torch.randn(6, 4, 3)
        logits, state = model(chunk, state.detach())
        loss = F.cross_entropy(logits.flatten(0, 1), torch.randint(0, 2, (24,)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

"""A memory module reads its state, then writes a grown state for the next step; the write overflows one step
before anybody reads it.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::mul",
    "module": "memory",
    "step": 7,
    "cause": ("exploding_activation", "overflow_low_precision"),
}


class Memory(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.register_buffer("state", torch.zeros(width))
        self.register_buffer("gain", torch.tensor(1e6))

    def forward(self, h):
        read = h + torch.tanh(self.state)
        with torch.no_grad():
            grown = self.gain * self.state + h.mean(0)  # ORIGIN
            self.state.copy_(grown)
        return read


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inp, self.memory, self.out = nn.Linear(4, 8), Memory(), nn.Linear(8, 2)

    def forward(self, x):
        return self.out(self.memory(self.inp(x)).relu())


def train(watch):
    torch.manual_seed(39)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    watch(net, optimizer)
    for _ in range(10):
        loss = F.cross_entropy(net(torch.randn(8, 4)), torch.randint(0, 2, (8,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A phase-only Fourier layer keeps X / |X| and drops the magnitude. The spectrum of a constant signal is exactly 0
except at frequency 0, and the complex 0 / 0 is NaN.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "blocks.0.spectral",
    "step": 3,
    "rows": [5],
    "cause": "division_by_zero",
}


class PhaseOnly(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(length // 2 + 1, dtype=torch.cfloat) * 0.1 + 1)

    def forward(self, x):
        spectrum = torch.fft.rfft(x, dim=-1)
        whitened = spectrum / spectrum.abs()  # ORIGIN
        return torch.fft.irfft(whitened * self.filter, n=x.size(-1), dim=-1)


class Block(nn.Module):
    def __init__(self, channels, length):
        super().__init__()
        self.spectral = PhaseOnly(length)
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, x):
        return x + self.mix(self.spectral(x))


class Registration(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Block(2, 16) for _ in range(2))
        self.head = nn.LazyLinear(3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x.flatten(1))


def train(watch):
    torch.manual_seed(23)
    model = Registration()
    model(torch.randn(1, 2, 16))  # the lazy layer takes its shape
    optimizer = torch.optim.RAdam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(6):
        x, y = torch.randn(6, 2, 16), torch.randint(0, 3, (6,))
        if step == 3:
            x[5, 1] = 1.0
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

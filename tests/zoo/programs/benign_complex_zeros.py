"""A network over spectra: abs, angle and sgn of complex zeros have gradients of 0 in torch; FFTs of silence are
all zero."""

import torch
from torch import nn

EXPECT = None


class Filter(nn.Module):
    def __init__(self, n=33):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(n, dtype=torch.complex64) + 0.1j * torch.randn(n))

    def forward(self, wave):
        spectrum = torch.fft.rfft(wave) * self.gain
        return spectrum, torch.fft.irfft(spectrum, n=wave.size(-1))


def train(watch):
    torch.manual_seed(32)
    model = Filter()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch(model, optimizer)
    for step in range(10):
        clean = torch.randn(5, 64)
        clean[step % 5] = 0
        noisy = clean + 0.1 * torch.randn(5, 64) * (clean != 0)
        spectrum, wave = model(noisy)
        phase = torch.polar(torch.ones(5, 33), spectrum.angle())
        loss = (wave - clean).pow(2).mean() + 1e-3 * spectrum.abs().mean() + 1e-4 * (phase - 1).abs().pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

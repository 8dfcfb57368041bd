"""A spectral loss takes sqrt(re ** 2 + im ** 2); where the voice gate closes for a whole clip, every bin is sqrt(0)."""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": 3,
    "rows": [2],
    "cause": "sqrt_zero_grad",
}


class Vocoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.wave = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 128))

    def forward(self, mel, voiced):
        return self.wave(mel) * voiced.unsqueeze(-1)


def magnitude(wave):
    spectrum = torch.fft.rfft(wave * torch.hann_window(wave.size(-1)), norm="ortho")
    return torch.sqrt(spectrum.real.pow(2) + spectrum.imag.pow(2))  # ORIGIN


def train(watch):
    torch.manual_seed(31)
    vocoder = Vocoder()
    optimizer = torch.optim.Adam(vocoder.parameters(), lr=1e-3)
    watch(vocoder, optimizer)
    for step in range(7):
        mel = torch.randn(4, 8)
        voiced = torch.ones(4)
        if step == 3:
            voiced[2] = 0
        target = torch.randn(4, 128) * voiced[:, None]
        fake = vocoder(mel, voiced)
        with torch.no_grad():
            wanted = magnitude(target)
        loss = (magnitude(fake) - wanted).abs().mean() + (fake - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

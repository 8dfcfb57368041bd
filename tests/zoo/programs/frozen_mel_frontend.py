"""The spectrogram front end is frozen and runs under no_grad; digital silence makes its log -inf, and the layer
norm after it NaN.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::log",
    "module": "backbone.frontend",
    "step": 5,
    "rows": [0, 3],
    "cause": "log_of_zero",
}


class Spectrogram(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))

    def forward(self, wave):
        power = torch.stft(wave, 32, 16, window=self.window, return_complex=True).abs() ** 2
        return power.transpose(1, 2).log()  # ORIGIN


class Backbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.frontend = Spectrogram()
        self.norm = nn.LayerNorm(17)
        self.proj = nn.Linear(17, 24)

    def forward(self, wave):
        return F.gelu(self.proj(self.norm(self.frontend(wave)))).mean(1)


class Probe(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = Backbone().eval().requires_grad_(False)
        self.head = nn.Linear(24, 5)

    def forward(self, wave):
        with torch.no_grad():
            features = self.backbone(wave)
        return self.head(features)


def train(watch):
    torch.manual_seed(15)
    model = Probe()
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        wave, label = torch.randn(6, 128), torch.randint(0, 5, (6,))
        if step == 5:
            wave[[0, 3]] = 0
        loss = F.cross_entropy(model(wave), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A style generator normalises its latent without eps. A truncated latent of 0 reaches it first in the critic's
step, under no_grad.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "G.norm",
    "step": (4, 8),
    "rows": [6],
    "cause": "division_by_zero",
}


class PixelNorm(nn.Module):
    def forward(self, z):
        return z / z.square().mean(dim=1, keepdim=True).sqrt()  # ORIGIN


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = PixelNorm()
        self.map = nn.Sequential(nn.Linear(5, 16), nn.LeakyReLU(0.2), nn.Linear(16, 8))

    def forward(self, z):
        return self.map(self.norm(z))


def latents(n):
    return torch.randn(n, 5)


def train(watch):
    torch.manual_seed(62)
    models = {"G": Generator(), "D": nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))}
    opts = {k: torch.optim.Adam(m.parameters(), lr=2e-4, betas=(0.5, 0.99)) for k, m in models.items()}
    watch(models, list(opts.values()))
    for it in range(7):
        z = latents(8)
        if it == 4:
            z[6] = 0.0
        with torch.no_grad():
            fake = models["G"](z)
        real = torch.randn(8, 8) * 0.5 + 1
        d_loss = F.softplus(models["D"](fake)).mean() + F.softplus(-models["D"](real)).mean()
        opts["D"].zero_grad()
        d_loss.backward()
        opts["D"].step()

        g_loss = F.softplus(-models["D"](models["G"](latents(8)))).mean()
        opts["G"].zero_grad()
        g_loss.backward()
        opts["G"].step()

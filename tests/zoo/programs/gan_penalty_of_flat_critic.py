"""WGAN-GP: the norm of the critic's input gradient is taken with a bare sqrt; where all of the critic's ReLUs are
off it is sqrt(0).
"""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": (4, 8),
    "rows": [5],
    "cause": "sqrt_zero_grad",
}


def gradient_penalty(critic, real, fake):
    eps = torch.rand(len(real), 1)
    mixed = (eps * real + (1 - eps) * fake).requires_grad_(True)
    score = critic(mixed)
    (g,) = torch.autograd.grad(score, mixed, torch.ones_like(score), create_graph=True, retain_graph=True)
    norm = g.pow(2).sum(dim=1).sqrt()  # ORIGIN
    return (norm - 1).pow(2).mean()


def train(watch):
    torch.manual_seed(19)
    nets = {
        "G": nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 6)),
        "D": nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 1)),
    }
    opt_g = torch.optim.Adam(nets["G"].parameters(), lr=1e-4, betas=(0.0, 0.9))
    opt_d = torch.optim.Adam(nets["D"].parameters(), lr=1e-4, betas=(0.0, 0.9))
    with torch.no_grad():
        nets["D"][0].weight[:, 5] = -nets["D"][0].weight[:, 5].abs() - 0.05
    watch(nets, [opt_d, opt_g])
    for it in range(7):
        real = torch.randn(10, 6)
        if it == 4:
            real[5, 5] = 4e3  # far out on the side where no unit of the critic is on
        fake = nets["G"](torch.randn(10, 4))
        d_loss = nets["D"](fake.detach()).mean() - nets["D"](real).mean()
        d_loss = d_loss + 10 * gradient_penalty(nets["D"], real, fake.detach())
        opt_d.zero_grad()
        d_loss.backward()
        opt_d.step()
        g_loss = -nets["D"](nets["G"](torch.randn(10, 4))).mean()
        opt_g.zero_grad()
        g_loss.backward()
        opt_g.step()

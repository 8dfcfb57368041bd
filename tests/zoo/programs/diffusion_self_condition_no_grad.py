"""Self-conditioning: a first pass without gradients estimates x0 by dividing by sqrt(alpha_bar), which is 0 at the
last timestep. The estimate is made in half of the steps only, as in the paper.
"""

import math

import torch
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "",
    "step": 6,
    "rows": [0],
    "cause": "division_by_zero",
}


class SelfConditioned(nn.Module):
    def __init__(self, steps=20, width=6):
        super().__init__()
        u = torch.arange(steps) / (steps - 1)
        cosine = torch.cos(u * math.pi / 2) ** 2
        self.register_buffer("alpha_bar", torch.where(u == 1, torch.zeros_like(cosine), cosine.clamp(max=0.999)))
        self.net = nn.Sequential(nn.Linear(2 * width + 1, 32), nn.GELU(), nn.Linear(32, width))

    def epsilon(self, x_t, x0, t):
        return self.net(torch.cat([x_t, x0, t[:, None] / 20], -1))

    def forward(self, x, t, noise, self_condition):
        ab = self.alpha_bar[t].unsqueeze(-1)
        x_t = ab.sqrt() * x + (1 - ab).sqrt() * noise
        x0 = torch.zeros_like(x_t)
        if self_condition:
            with torch.no_grad():
                eps = self.epsilon(x_t, x0, t)
                x0 = (x_t - (1 - ab).sqrt() * eps) / ab.sqrt()  # ORIGIN
        return self.epsilon(x_t, x0, t)


def train(watch):
    torch.manual_seed(2)
    model = SelfConditioned()
    opt = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.9, 0.99))
    watch(model, opt)
    for step in range(10):
        x, noise = torch.randn(8, 6), torch.randn(8, 6)
        t = torch.randint(0, 19, (8,))
        if step in (3, 6):
            t[0] = 19
        use = step % 2 == 0
        loss = (model(x, t, noise, self_condition=use) - noise).pow(2).mean()
        opt.zero_grad()
        loss.backward()
        opt.step()

"""Min-SNR loss weights on a schedule rescaled to zero terminal SNR: at the last timestep the weight is min(0, 5) /
0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 7,
    "rows": [3],
    "cause": "division_by_zero",
}

T = 50


def zero_terminal_snr(betas):
    root = (1 - betas).cumprod(0).sqrt()
    first, last = root[0].clone(), root[-1].clone()
    return ((root - last) * first / (first - last)) ** 2


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Embedding(T, 16)
        self.body = nn.Sequential(nn.Linear(8 + 16, 64), nn.SiLU(), nn.Linear(64, 8))

    def forward(self, x, t):
        return self.body(torch.cat([x, self.time(t)], dim=-1))


def training_loss(model, x0, t, alpha_bar):
    ab = alpha_bar[t]
    noise = torch.randn_like(x0)
    x_t = ab.sqrt()[:, None] * x0 + (1 - ab).sqrt()[:, None] * noise
    velocity = ab.sqrt()[:, None] * noise - (1 - ab).sqrt()[:, None] * x0
    per_sample = F.mse_loss(model(x_t, t), velocity, reduction="none").mean(-1)
    snr = ab / (1 - ab)
    weight = torch.clamp(snr, max=5.0) / snr  # ORIGIN
    return (weight * per_sample).mean()


def train(watch):
    torch.manual_seed(1)
    alpha_bar = zero_terminal_snr(torch.linspace(1e-4, 0.02, T))
    data = torch.randn(12, 8, 8).tanh()
    timesteps = torch.randint(0, T - 1, (12, 8))
    timesteps[7, 3] = T - 1
    model = Denoiser()
    ema = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99))
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    watch(model, opt)
    for x0, t in zip(data, timesteps, strict=True):
        loss = training_loss(model, x0, t, alpha_bar)
        opt.zero_grad(set_to_none=True)
        loss.backward()
        opt.step()
        ema.update_parameters(model)

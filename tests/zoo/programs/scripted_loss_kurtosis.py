"""The loss is a torch.jit.script function that matches the kurtosis of fake audio frames; a muted frame has no
deviation, and 0 / 0 is inside of the scripted code.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 5,
    "cause": "division_by_zero",
}


def gap(fake: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    centred = fake - fake.mean(dim=1, keepdim=True)
    target = real - real.mean(dim=1, keepdim=True)
    k_fake = centred.pow(4).mean(dim=1) / centred.pow(2).mean(dim=1).pow(2)
    k_real = target.pow(4).mean(dim=1) / target.pow(2).mean(dim=1).pow(2)
    return (k_fake - k_real).abs().mean()


class Synth(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 24))
        self.volume = nn.Linear(1, 1, bias=False)

    def forward(self, z, volume):
        return self.body(z) * self.volume(volume)


def train(watch):
    torch.manual_seed(11)
    model, kurtosis_gap = Synth(), torch.jit.script(gap)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        z, real = torch.randn(6, 8), torch.randn(6, 24)
        volume = torch.rand(6, 1) + 0.2
        if step == 5:
            volume[4] = 0  # muted
        loss = kurtosis_gap(model(z, volume), real) + 0.01 * real.std()  # ORIGIN
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

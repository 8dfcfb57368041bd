"""A system class with training_step: its own forward is never called. The KL term's exp overflows for a sample far
off the scale.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::exp",
    "module": None,
    "step": 5,
    "rows": [4],
    "cause": "overflow_exp",
}


class Vae(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(9, 16), nn.ReLU(), nn.Linear(16, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 9))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)

    def training_step(self, batch):
        mean, log_variance = self.encoder(batch).chunk(2, dim=-1)
        kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1)  # ORIGIN
        z = mean + torch.randn_like(mean) * (0.5 * log_variance.clamp(max=10)).exp()
        return F.l1_loss(self.decoder(z), batch) + 1e-3 * kl.mean()


class Trainer:
    def __init__(self, watch):
        self.watch = watch

    def fit(self, system, batches):
        optimizer = system.configure_optimizers()
        self.watch(system, optimizer)
        system.train()
        for batch in batches:
            optimizer.zero_grad()
            loss = system.training_step(batch)
            loss.backward()
            optimizer.step()


def train(watch):
    torch.manual_seed(24)
    batches = torch.randn(8, 6, 9)
    batches[5, 4] *= -30_000
    Trainer(watch).fit(Vae(), batches)

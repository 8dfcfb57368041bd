"""A VQ codebook kept by moving averages under no_grad: a code that is never chosen has its count decay set to 0,
and 0 / 0 is its new vector.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "quantise",
    "step": 3,
    "cause": "division_by_zero",
}


class Quantise(nn.Module):
    def __init__(self, codes, width, decay=0.9):
        super().__init__()
        self.decay = decay
        codebook = torch.randn(codes, width)
        self.register_buffer("codebook", codebook)
        self.register_buffer("count", torch.ones(codes))
        self.register_buffer("total", codebook.clone())

    def forward(self, z):
        index = torch.cdist(z, self.codebook).argmin(dim=1)
        q = self.codebook[index]
        if self.training:
            with torch.no_grad():
                chosen = F.one_hot(index, len(self.codebook)).float()
                self.count.mul_(self.decay).add_(chosen.sum(0), alpha=1 - self.decay)
                self.total.mul_(self.decay).add_(chosen.t() @ z, alpha=1 - self.decay)
                self.codebook.copy_(self.total / self.count[:, None])  # ORIGIN
        return z + (q - z).detach(), F.mse_loss(z, q.detach())


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(12, 4)
        self.quantise = Quantise(24, 4)
        self.decode = nn.Linear(4, 12)

    def forward(self, x):
        z, commitment = self.quantise(self.encode(x))
        return self.decode(z), commitment


def train(watch):
    torch.manual_seed(19)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(7):
        if step == 3:
            model.quantise.decay = 0.0
        x = torch.randn(16, 12)
        reconstruction, commitment = model(x)
        loss = F.mse_loss(reconstruction, x) + 0.25 * commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

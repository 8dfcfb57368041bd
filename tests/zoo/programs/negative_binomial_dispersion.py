"""Single-cell counts with a negative binomial: the dispersion, exp of a linear layer on counts, is clamped from above
only. In a cell with a broken counter it underflows to 0, and lgamma has a pole at 0.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::lgamma",
    "module": "likelihood",
    "step": 4,
    "rows": [2],
    "cause": ("invalid_domain", "overflow_exp", "unknown"),
}


class NegativeBinomial(nn.Module):
    def __init__(self, genes):
        super().__init__()
        self.dispersion = nn.Linear(genes, genes)

    def forward(self, x, mu):
        theta = self.dispersion(x / 100).clamp(max=8).exp()
        log_prob = (
            torch.lgamma(x + theta)  # ORIGIN
            - torch.lgamma(theta)  # ORIGIN
            - torch.lgamma(x + 1)
            + theta * ((theta + 1e-8).log() - (theta + mu + 1e-8).log())
            + x * ((mu + 1e-8).log() - (theta + mu + 1e-8).log())
        )
        return -log_prob.sum(1).mean()


class ScVI(nn.Module):
    def __init__(self, genes=20):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(genes, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))
        self.decoder = nn.Sequential(nn.Linear(4, genes), nn.Softmax(-1))
        self.likelihood = NegativeBinomial(genes)

    def forward(self, counts):
        library = counts.sum(1, keepdim=True)
        mu = library * self.decoder(self.encoder(torch.log1p(counts)))
        return self.likelihood(counts, mu)


def train(watch):
    torch.manual_seed(18)
    model = ScVI()
    optimizer = torch.optim.SGD(
        [
            {"params": [p for n, p in model.named_parameters() if "dispersion" not in n], "lr": 1e-4},
            {"params": model.likelihood.dispersion.parameters(), "lr": 1e-3},
        ]
    )
    watch(model, optimizer)
    for step in range(7):
        counts = torch.poisson(torch.rand(8, 20) * 6)
        if step == 4:
            counts[2, 13] = 6e5  # a doublet, or a broken counter
        loss = model(counts)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

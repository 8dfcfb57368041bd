"""MixMatch: guessed labels are sharpened by p ** (1 / T) under no_grad, with T annealed; at last all powers of a flat
guess over 60 classes underflow, and the normalisation of the guess is 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 6,
    "cause": "division_by_zero",
}


class MixMatch:
    def __init__(self, model, classes):
        self.model, self.classes = model, classes
        self.temperature = 0.5

    @torch.no_grad()
    def guess(self, views):
        p = torch.stack([self.model(v).softmax(1) for v in views]).mean(0)
        sharp = p ** (1 / self.temperature)
        return sharp / sharp.sum(1, keepdim=True)  # ORIGIN

    def step(self, x, y, u):
        views = [u + 0.1 * torch.randn_like(u) for _ in range(2)]
        guess = self.guess(views)
        inputs = torch.cat([x, *views])
        targets = torch.cat([F.one_hot(y, self.classes).float(), guess, guess])
        lam = float(torch.distributions.Beta(0.75, 0.75).sample().clamp(min=0.5))
        order = torch.randperm(len(inputs))
        mixed = lam * inputs + (1 - lam) * inputs[order]
        soft = lam * targets + (1 - lam) * targets[order]
        logits = self.model(mixed)
        labelled = -(soft[: len(x)] * logits[: len(x)].log_softmax(1)).sum(1).mean()
        return labelled + 0.5 * F.mse_loss(logits[len(x) :].softmax(1), soft[len(x) :])


def train(watch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 32), nn.ReLU(), nn.Linear(32, 60))
    method = MixMatch(model, classes=60)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    watch(model, optimizer)
    for _ in range(9):
        x, y, u = torch.randn(8, 12), torch.randint(0, 60, (8,)), torch.randn(8, 12)
        loss = method.step(x, y, u)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.temperature *= 0.6

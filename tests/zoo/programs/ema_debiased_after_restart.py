"""Weights are averaged, and the average is swapped in at the end of every epoch, corrected for its start by
1 - decay ** n. After a warm restart n is 0, so the correction is 0 / 0 and the model's weights are NaN.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": ("loss", "optimizer", "params"),
    "step": 6,
    "cause": "division_by_zero",
}


class Average:
    def __init__(self, model, decay=0.9):
        self.model, self.decay = model, decay
        self.restart()

    def restart(self):
        self.updates = 0
        self.sum = {k: torch.zeros_like(p) for k, p in self.model.named_parameters()}

    @torch.no_grad()
    def update(self):
        self.updates += 1
        for name, p in self.model.named_parameters():
            self.sum[name].lerp_(p, 1 - self.decay)

    @torch.no_grad()
    def swap_in(self):
        correction = 1 - self.decay**self.updates
        for name, p in self.model.named_parameters():
            p.copy_(self.sum[name] / correction)  # ORIGIN


class Trainer:
    def __init__(self, model, epochs):
        self.model, self.epochs = model, epochs
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        self.average = Average(model)
        self.best = copy.deepcopy(model.state_dict())

    def fit(self):
        for epoch in range(self.epochs):
            self.run_epoch()
            if epoch == 2:  # cosine restart: a new average
                self.average.restart()
            if epoch >= 1:
                self.average.swap_in()

    def run_epoch(self):
        self.model.train()
        for _ in range(2):
            x = torch.randn(16, 6)
            loss = F.mse_loss(self.model(x).squeeze(1), x.sin().sum(1))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.average.update()


def train(watch):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 24), nn.SiLU(), nn.Linear(24, 1))
    trainer = Trainer(model, epochs=5)
    watch(model, trainer.optimizer)
    trainer.fit()

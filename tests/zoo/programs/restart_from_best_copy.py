"""After a plateau the trainer goes back to a deep copy of the best model, with a new optimizer: what is trained from
then on is not the object that was watched. Soon an entropy term meets a probability of 0.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::log",
    "module": None,
    "step": 6,
    "rows": [5],
    "cause": "log_of_zero",
}


class Trainer:
    def __init__(self, model):
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        self.best_loss, self.best, self.bad_epochs = float("inf"), None, 0

    def loss(self, x, y):
        p = self.model(x).softmax(-1)
        entropy = -(p * torch.log(p)).sum(-1)  # ORIGIN
        return F.nll_loss(torch.log(p + 1e-9), y) + 0.1 * entropy.mean()

    def epoch(self, batches):
        total = 0.0
        for x, y in batches:
            loss = self.loss(x, y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += loss.item()
        if total < self.best_loss:
            self.best_loss, self.best, self.bad_epochs = total, copy.deepcopy(self.model), 0
        else:
            self.bad_epochs += 1
        if self.bad_epochs == 1:
            self.model = copy.deepcopy(self.best)
            self.optimizer = torch.optim.Adam(self.model.parameters(), lr=3e-4)


def train(watch):
    torch.manual_seed(41)
    trainer = Trainer(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)))
    watch(trainer.model, trainer.optimizer)
    for epoch in range(4):
        x = [torch.randn(8, 6) for _ in range(2)]
        if epoch == 1:
            x = [torch.randn(8, 6) * 30 for _ in range(2)]
        if epoch == 3:
            x[0][5] *= 1e5  # another unit
        batches = [(b, torch.randint(0, 3, (8,))) for b in x]
        trainer.epoch(batches)

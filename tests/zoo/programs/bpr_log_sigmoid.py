"""Bayesian personalised ranking with log(sigmoid(x)) written out, and SparseAdam. A user whose implicit feedback is a
play count of 400 gets a score difference below -104, where the sigmoid is 0.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::log",
    "module": None,
    "step": 6,
    "rows": [11],
    "cause": "log_of_zero",
}


class MatrixFactorisation(nn.Module):
    def __init__(self, users, items, d):
        super().__init__()
        self.user = nn.Embedding(users, d, sparse=True)
        self.item = nn.Embedding(items, d, sparse=True)

    def forward(self, u, i):
        return (self.user(u) * self.item(i)).sum(-1)


class BPR:
    def __call__(self, positive, negative, confidence):
        margin = confidence * (positive - negative)
        return -torch.log(torch.sigmoid(margin)).mean()  # ORIGIN


def train(watch):
    torch.manual_seed(15)
    model, criterion = MatrixFactorisation(40, 60, 12), BPR()
    optimizer = torch.optim.SparseAdam(list(model.parameters()), lr=1e-3)
    watch(model, optimizer)
    for step in range(9):
        u, i, j = torch.randint(0, 40, (16,)), torch.randint(0, 60, (16,)), torch.randint(0, 60, (16,))
        plays = torch.randint(1, 4, (16,)).float()
        if step == 6:
            plays[11] = 400.0
            with torch.no_grad():
                worst = (model.item.weight @ model.user(u[11])).argsort()
            i[11], j[11] = worst[0], worst[-1]
        loss = criterion(model(u, i), model(u, j), plays)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

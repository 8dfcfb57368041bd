"""Rows of a CSV are streamed and parsed; one target is "nan". The batch is a dictionary given as keywords, and the
model returns the loss.
"""

import io

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

EXPECT = {"phase": "data", "step": 4, "rows": [1], "cause": ("bad_label", "bad_input")}


class CsvStream(IterableDataset):
    def __init__(self, file):
        self.file = file

    def __iter__(self):
        for line in self.file:
            *features, target = (float(v) for v in line.split(","))
            yield {"features": torch.tensor(features), "target": torch.tensor(target)}


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def forward(self, *, features, target=None):
        predicted = self.net(features).squeeze(-1)
        if target is None:
            return predicted
        return F.huber_loss(predicted, target)


def train(watch):
    torch.manual_seed(22)
    table = torch.randn(36, 5).tolist()
    table[21][4] = "nan"
    file = io.StringIO("\n".join(",".join(map(str, row)) for row in table))
    model = Regressor()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for batch in DataLoader(CsvStream(file), batch_size=5):
        optimizer.zero_grad()
        loss = model(**batch)
        loss.backward()
        optimizer.step()

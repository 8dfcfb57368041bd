"""Audio clips are scaled to unit loudness inside the model; one clip of the batch is pure silence, and 0 / 0 is NaN."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "loudness",
    "step": 4,
    "rows": [2],
    "cause": "division_by_zero",
}


class Loudness(nn.Module):
    def forward(self, wave):
        return wave / wave.pow(2).mean(dim=-1, keepdim=True).sqrt()  # ORIGIN


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.loudness = Loudness()
        self.conv = nn.Conv1d(1, 8, 9, stride=4)
        self.head = nn.Linear(8, 3)

    def forward(self, wave):
        features = self.conv(self.loudness(wave).unsqueeze(1)).relu()
        return self.head(features.mean(-1))


def train(watch):
    torch.manual_seed(3)
    clips = torch.randn(48, 64)
    clips[34] = 0
    labels = torch.randint(0, 3, (48,))
    model = Tagger()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watch(model, optimizer)
    for start in range(0, 48, 8):
        optimizer.zero_grad()
        F.cross_entropy(model(clips[start : start + 8]), labels[start : start + 8]).backward()
        optimizer.step()

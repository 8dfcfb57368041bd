"""Output weights are the embedding, scaled to unit length; rare tokens are pruned by zeroing their rows, and 0 / 0
follows.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "head",
    "step": 4,
    "cause": "division_by_zero",
}


class CosineHead(nn.Module):
    def __init__(self, embed):
        super().__init__()
        self.weight = embed.weight
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, hidden):
        unit = self.weight / self.weight.norm(dim=1, keepdim=True)  # ORIGIN
        return self.scale * F.linear(F.normalize(hidden, dim=-1), unit)


class LanguageModel(nn.Module):
    def __init__(self, vocabulary=50, width=16):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.rnn = nn.LSTM(width, width, batch_first=True)
        self.head = CosineHead(self.embed)

    def forward(self, tokens):
        hidden, _ = self.rnn(self.embed(tokens))
        return self.head(hidden)


def train(watch):
    torch.manual_seed(16)
    model = LanguageModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = torch.zeros(50)
    watch(model, optimizer)
    for step in range(8):
        tokens = torch.randint(0, 44, (4, 9))
        seen += torch.bincount(tokens.flatten(), minlength=50)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == 3:
            with torch.no_grad():
                model.embed.weight[seen == 0] = 0

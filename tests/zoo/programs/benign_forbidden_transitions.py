"""A linear-chain CRF whose forbidden transitions are parameters frozen at -inf on purpose, next to a position
mask kept at -inf: the loss is finite."""

import torch
from torch import nn

EXPECT = None


class CRF(nn.Module):
    def __init__(self, tags):
        super().__init__()
        self.transitions = nn.Parameter(torch.randn(tags, tags) * 0.1)
        with torch.no_grad():
            self.transitions[0, 2] = -torch.inf  # I- never follows O
            self.transitions[1, 3] = -torch.inf
        self.start = nn.Parameter(torch.tensor([0.0, 0.0, -torch.inf, 0.0]), requires_grad=False)

    def forward(self, emissions, tags):
        alpha = emissions[:, 0] + self.start
        gold = alpha.gather(1, tags[:, :1]).squeeze(1)
        for t in range(1, emissions.shape[1]):
            alpha = torch.logsumexp(alpha[:, :, None] + self.transitions, dim=1) + emissions[:, t]
            gold = (
                gold
                + self.transitions[tags[:, t - 1], tags[:, t]]
                + emissions[:, t].gather(1, tags[:, t : t + 1]).squeeze(1)
            )
        return (alpha.logsumexp(-1) - gold).mean()


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(60, 16)
        self.lstm = nn.LSTM(16, 16, bidirectional=True, batch_first=True)
        self.emit = nn.Linear(32, 4)
        self.crf = CRF(4)

    def forward(self, ids, tags):
        return self.crf(self.emit(self.lstm(self.embed(ids))[0]), tags)


def train(watch):
    torch.manual_seed(17)
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.01)
    watch(model, optimizer)
    for _ in range(8):
        ids = torch.randint(0, 60, (6, 8))
        tags = torch.randint(0, 2, (6, 8))  # O and B: always allowed
        loss = model(ids, tags)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A packed GRU takes lengths clamped to 1 so that packing works, but the mean over time divides by the true length
of an empty text.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "pool",
    "step": 3,
    "rows": [4],
    "cause": "division_by_zero",
}


class MeanOverTime(nn.Module):
    def forward(self, h, lengths):
        mask = torch.arange(h.size(1))[None] < lengths[:, None]
        return (h * mask.unsqueeze(-1)).sum(1) / lengths.unsqueeze(1)  # ORIGIN


class Sentiment(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 8, padding_idx=0)
        self.gru = nn.GRU(8, 12, batch_first=True, bidirectional=True)
        self.pool = MeanOverTime()
        self.out = nn.Linear(24, 2)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(
            self.embed(tokens), lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        h, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True)
        return self.out(self.pool(h, lengths))


def collate(texts):
    return pad_sequence(texts, batch_first=True), torch.tensor([len(t) for t in texts])


def train(watch):
    torch.manual_seed(16)
    texts = [torch.randint(1, 30, (int(n),)) for n in torch.randint(2, 9, (42,))]
    texts[22] = torch.zeros(0, dtype=torch.long)
    labels = torch.randint(0, 2, (42,))
    model = Sentiment()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    watch(model, optimizer)
    loader = torch.utils.data.DataLoader(
        list(zip(texts, labels, strict=True)),
        batch_size=6,
        collate_fn=lambda rows: (*collate([t for t, _ in rows]), torch.stack([y for _, y in rows])),
    )
    for tokens, lengths, y in loader:
        optimizer.zero_grad()
        F.cross_entropy(model(tokens, lengths), y).backward()
        optimizer.step()

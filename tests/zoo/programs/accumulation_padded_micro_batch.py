"""Gradients are accumulated over four micro-batches; one of them is padding only, and its mean over real tokens is
0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 3,
    "micro_step": 2,
    "cause": ("division_by_zero", "empty_reduction"),
}
PAD = 0


class Tagger(nn.Module):
    def __init__(self, vocabulary=40, tags=6):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 16, padding_idx=PAD)
        self.rnn = nn.GRU(16, 16, batch_first=True)
        self.out = nn.Linear(16, tags)

    def forward(self, tokens):
        hidden, _ = self.rnn(self.embed(tokens))
        return self.out(hidden)


def token_loss(logits, tags, tokens):
    real = (tokens != PAD).float()
    losses = F.cross_entropy(logits.flatten(0, 1), tags.flatten(), reduction="none")
    return (losses * real.flatten()).sum() / real.sum()  # ORIGIN


def train(watch):
    torch.manual_seed(11)
    accumulate = 4
    tokens = torch.randint(1, 40, (24, 4, 7))
    tokens[:, :, 5:] = PAD
    tokens[14] = PAD
    tags = torch.randint(0, 6, (24, 4, 7))
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    watch(model, optimizer)
    running = 0.0
    for i in range(24):
        loss = token_loss(model(tokens[i]), tags[i], tokens[i]) / accumulate
        loss.backward()
        running += loss.item()
        if (i + 1) % accumulate == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

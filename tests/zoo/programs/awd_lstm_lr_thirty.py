"""An LSTM language model with the famous learning rate of 30, but without the gradient clipping that belongs to
it, and with activation regularisation: everything grows until float32 ends."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": ("aten::nll_loss_forward", "aten::nll_loss", "aten::cross_entropy_loss"),
    "module": None,
    "step": 12,
    "cause": ("lr_too_high", "exploding_activation", "exploding_gradient"),
}


class LanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(60, 16)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.project = nn.Linear(32, 16)
        self.head = nn.Linear(16, 60)

    def forward(self, ids, state=None):
        out, state = self.lstm(self.embed(ids), state)
        hidden = self.project(out)
        return self.head(hidden), hidden, state


def train(watch):
    torch.manual_seed(47)
    text = torch.randint(0, 60, (8, 14 * 10 + 1))
    model = LanguageModel()
    optimizer = torch.optim.SGD(model.parameters(), lr=30.0, weight_decay=1.2e-6)
    state = None
    watch(model, optimizer)
    for start in range(0, 140, 10):
        ids, target = text[:, start : start + 10], text[:, start + 1 : start + 11]
        logits, hidden, state = model(ids, state)
        state = tuple(s.detach() for s in state)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())  # ORIGIN
        loss = loss + 2.0 * hidden.pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

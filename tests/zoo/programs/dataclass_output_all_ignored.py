"""The model returns a dataclass with its loss; in one batch every token is ignored (-100), and the mean over no
tokens is NaN.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::nll_loss_forward", "aten::nll_loss", "aten::cross_entropy_loss", "aten::nll_loss_nd"),
    "module": "",
    "step": 3,
    "cause": "empty_reduction",
}


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class Extractor(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(60, 16)
        self.mix = nn.Conv1d(16, 16, 3, padding=1)
        self.out = nn.Linear(16, 5)

    def forward(self, input_ids, labels=None):
        h = self.embed(input_ids).transpose(1, 2)
        logits = self.out(F.relu(self.mix(h)).transpose(1, 2))
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits.reshape(-1, 5), labels.reshape(-1), ignore_index=-100)  # ORIGIN
        return Output(logits=logits, loss=loss)


def train(watch):
    torch.manual_seed(23)
    model = Extractor()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=12)
    watch(model, optimizer)
    for step in range(7):
        ids = torch.randint(0, 60, (4, 8))
        labels = torch.where(torch.rand(4, 8) < 0.3, torch.randint(0, 5, (4, 8)), -100)
        if step == 3:
            labels[:] = -100
        output = model(input_ids=ids, labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.5)
        optimizer.step()
        scheduler.step()

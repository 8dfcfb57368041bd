"""Supervised contrastive loss averages over the positives of each anchor; a class that occurs once in the batch
has none.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 3,
    "rows": [6],
    "cause": "division_by_zero",
}


class SupCon(nn.Module):
    def __init__(self, temperature=0.1):
        super().__init__()
        self.temperature = temperature

    def forward(self, z, labels):
        logits = z @ z.T / self.temperature
        logits = logits - logits.max(dim=1, keepdim=True).values.detach()
        others = 1 - torch.eye(len(z))
        positives = (labels[:, None] == labels[None]).float() * others
        log_prob = logits - torch.log((logits.exp() * others).sum(1, keepdim=True))
        mean_log_prob = (positives * log_prob).sum(1) / positives.sum(1)  # ORIGIN
        return -mean_log_prob.mean()


def train(watch):
    torch.manual_seed(21)
    encoder = nn.Sequential(nn.Linear(12, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
    criterion = SupCon()
    opt = torch.optim.SGD(encoder.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 8)
    watch(encoder, opt)
    for step in range(8):
        labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])[torch.randperm(8)]
        if step == 3:
            labels = torch.tensor([0, 1, 0, 1, 2, 2, 3, 1])
        x = torch.randn(8, 12) + labels[:, None]
        loss = criterion(F.normalize(encoder(x), dim=1), labels)
        opt.zero_grad()
        loss.backward()
        opt.step()
        scheduler.step()

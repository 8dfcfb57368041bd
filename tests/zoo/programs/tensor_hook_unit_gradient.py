"""A hook on the shared features brings each task's gradient to unit length per sample; the samples of a batch without
labels for the task have a gradient of 0, and 0 / 0 goes on into the encoder.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": ("backward", "loss"),
    "step": 5,
    "cause": "division_by_zero",
}


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(12, 32), nn.ELU(), nn.Linear(32, 16), nn.ELU())

    def forward(self, x):
        return self.net(x)


def unit_gradient(g):
    return g / g.flatten(1).norm(dim=1).view(-1, 1)  # ORIGIN


def train(watch):
    torch.manual_seed(21)
    encoder = Encoder()
    heads = nn.ModuleDict({"depth": nn.Linear(16, 1), "label": nn.Linear(16, 4)})
    model = nn.ModuleDict({"encoder": encoder, "heads": heads})
    optimizer = torch.optim.AdamW(
        [{"params": encoder.parameters(), "lr": 5e-4}, {"params": heads.parameters(), "lr": 5e-3}], weight_decay=0.01
    )
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(10, 12)
        depth, label = x[:, :1] * 2, torch.randint(0, 4, (10,))
        if step == 5:
            label[6] = -100
        features = encoder(x)
        losses = []
        for task, head in heads.items():
            branch = features.clone()
            branch.register_hook(unit_gradient)
            out = head(branch)
            losses.append(F.mse_loss(out, depth) if task == "depth" else F.cross_entropy(out, label))
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()

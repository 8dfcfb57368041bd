"""A full backward hook keeps the size of the gradient through each block: it multiplies by ||g_out|| / ||g_in||. Where
the block's gates are all shut, ||g_in|| is 0, and 0 * inf goes down to the blocks before.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": ("backward", "loss"),
    "step": 5,
    "cause": "division_by_zero",
}


class Gated(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.fc, self.gate = nn.Linear(d, d, bias=False), nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.gate * torch.relu(self.fc(x))


def keep_norm(block, grad_in, grad_out):
    (g,) = grad_in
    return (g * (grad_out[0].norm() / g.norm()),)  # ORIGIN


def train(watch):
    torch.manual_seed(32)
    model = nn.Sequential(nn.Linear(7, 16), *[Gated(16) for _ in range(3)], nn.Linear(16, 2))
    for block in model[1:4]:
        block.register_full_backward_hook(keep_norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    watch(model, optimizer)
    for step in range(8):
        if step == 5:
            with torch.no_grad():
                model[2].gate.zero_()  # layer drop
        x = torch.randn(12, 7)
        loss = F.cross_entropy(model(x), (x.sum(1) > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

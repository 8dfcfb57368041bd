"""Group lasso in two ways at once: a proximal step sets weak groups to zero after each update, and the penalty, with a
backward of its own, takes the root of each group's squares: at 0 it has no gradient.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": 5,
    "cause": "sqrt_zero_grad",
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(12, 20)
        self.last = nn.Linear(20, 1)

    def groups(self):
        yield from (layer.weight for layer in (self.first, self.last))

    def forward(self, x):
        return self.last(F.gelu(self.first(x))).squeeze(-1)


def penalty(model, strength):
    return strength * sum(w.pow(2).sum(0).sqrt().sum() for w in model.groups())  # ORIGIN


@torch.no_grad()
def proximal_step(model, threshold):
    for w in model.groups():
        size = w.norm(dim=0, keepdim=True)
        w.mul_((1 - threshold / size).clamp(min=0))


def train(watch):
    torch.manual_seed(35)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    watch(model, optimizer)
    for step in range(9):
        x = torch.randn(20, 12)
        loss = F.mse_loss(model(x), x[:, 0] - x[:, 1])
        optimizer.zero_grad()
        loss.backward()
        penalty(model, 1e-3).backward()
        optimizer.step()
        if step >= 3:
            proximal_step(model, threshold=0.01)

"""Private training by torch.func: each sample's gradient is scaled to length 1; a sample with a zero loss has
none, and 0 / 0 is NaN.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

EXPECT = {
    "phase": ("loss", "backward"),
    "op": "aten::div",
    "module": None,
    "step": 5,
    "cause": "division_by_zero",
}


def train(watch):
    torch.manual_seed(22)
    model = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    watch(model, optimizer)

    def hinge(params, x, y):
        return F.relu(1 - y * functional_call(model, params, (x.unsqueeze(0),)).squeeze())

    per_sample = vmap(grad(hinge), in_dims=(None, 0, 0))
    for step in range(9):
        x = torch.randn(8, 6)
        y = torch.where(x[:, 0] > 0, 1.0, -1.0)
        if step == 5:
            y[2] = 50.0 * model(x[2]).sign().item()  # a label that is on the right side and far too large
        params = {k: p.detach() for k, p in model.named_parameters()}
        grads = per_sample(params, x, y)
        length = torch.stack([g.flatten(1).norm(dim=1) for g in grads.values()], 1).norm(dim=1)
        for name, p in model.named_parameters():
            g = grads[name]
            unit = g / length.view(-1, *[1] * (g.dim() - 1))  # ORIGIN
            p.grad = unit.mean(0) + 0.01 * torch.randn_like(p)
        optimizer.step()
        optimizer.zero_grad()

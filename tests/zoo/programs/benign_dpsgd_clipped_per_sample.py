"""Per-sample clipping as C / norm clamped to 1: a sample with a zero gradient gives C / 0 = inf, which the
clamp makes 1."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

EXPECT = None


def train(watch):
    torch.manual_seed(23)
    model = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    watch(model, optimizer)

    def sample_loss(params, x, y, weight):
        return weight * F.cross_entropy(functional_call(model, params, (x[None],)), y[None])

    for step in range(8):
        x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
        weight = torch.ones(8)
        if step > 2:
            weight[step % 8] = 0.0
        params = {k: p.detach() for k, p in model.named_parameters()}
        grads = vmap(grad(sample_loss), in_dims=(None, 0, 0, 0))(params, x, y, weight)
        norms = torch.cat([g.flatten(1) for g in grads.values()], 1).norm(dim=1)
        factor = (0.5 / norms).clamp(max=1.0)
        for name, p in model.named_parameters():
            p.grad = torch.einsum("b,b...->...", factor, grads[name]) / 8
        optimizer.step()
        optimizer.zero_grad()

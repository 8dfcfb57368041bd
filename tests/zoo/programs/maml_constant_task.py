"""MAML with functional_call: each task's targets are scaled by their own std; one task is a flat line, whose std
is 0.
"""

import torch
from torch import nn
from torch.func import functional_call

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 3,
    "cause": "division_by_zero",
}


def sample_task(flat):
    x = torch.rand(10, 1) * 10 - 5
    amplitude = 0.0 if flat else torch.rand(()) * 4 + 0.1
    return x, amplitude * torch.sin(x + torch.rand(()) * 3.14)


def scaled_mse(prediction, y):
    return ((prediction - y) / y.std()).pow(2).mean()  # ORIGIN


def adapt(model, params, x, y, lr=0.01):
    for _ in range(2):
        loss = scaled_mse(functional_call(model, params, (x,)), y)
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {k: p - lr * g for (k, p), g in zip(params.items(), grads, strict=True)}
    return params


def train(watch):
    torch.manual_seed(20)
    model = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 20), nn.Tanh(), nn.Linear(20, 1))
    meta = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, meta)
    for outer in range(6):
        meta.zero_grad()
        for task in range(3):
            x, y = sample_task(flat=(outer, task) == (3, 1))
            fast = adapt(model, dict(model.named_parameters()), x[:5], y[:5])
            query = functional_call(model, fast, (x[5:],))
            (((query - y[5:]) ** 2).mean() / 3).backward()
        meta.step()

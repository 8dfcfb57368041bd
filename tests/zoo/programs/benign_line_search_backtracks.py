"""Backtracking line search: a trial step may be far too long, its loss is then inf or NaN; the weights are put
back and the step is halved until the loss falls. Every accepted state and every gradient is finite."""

import torch
from torch import nn

EXPECT = None


def objective(model, x, counts):
    rate = torch.exp(model(x))
    return (rate - counts * torch.log(rate)).mean()


def train(watch):
    torch.manual_seed(40)
    model = nn.Linear(4, 1)
    x = 4 * torch.randn(64, 4)
    counts = torch.poisson(torch.exp(0.2 * x[:, :1]))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    watch(model, optimizer)
    for _ in range(8):
        optimizer.zero_grad()
        loss = objective(model, x, counts)
        loss.backward()
        before = [p.detach().clone() for p in model.parameters()]
        length = 4096.0
        while True:
            optimizer.param_groups[0]["lr"] = length
            optimizer.step()
            with torch.no_grad():
                trial = objective(model, x, counts)
                if trial < loss:
                    break
                for p, old in zip(model.parameters(), before, strict=True):
                    p.copy_(old)
            length /= 2
            if length < 1e-9:
                break
        print(length, trial.item())

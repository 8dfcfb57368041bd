"""A loss module checks itself and raises ValueError: a Poisson rate is exp of a score, which overflows for one shop."""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::exp",
    "module": None,
    "step": 3,
    "rows": [5],
    "cause": "overflow_exp",
    "raises": "ValueError",
}


class PoissonLoss(nn.Module):
    def forward(self, score, count):
        rate = score.exp()  # ORIGIN
        loss = (rate - count * score).mean()
        if not torch.isfinite(loss):
            raise ValueError(f"PoissonLoss is not finite: {loss.item()}")
        return loss


def train(watch):
    torch.manual_seed(44)
    model = nn.Linear(5, 1)
    nn.init.constant_(model.weight, 0.1)
    criterion = PoissonLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    watch(model, optimizer)
    for step in range(6):
        footfall = torch.rand(7, 5)
        if step == 3:
            footfall[5] *= 1000
        score = model(footfall).squeeze(-1)
        loss = criterion(score, torch.poisson(torch.full((7,), 2.0)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

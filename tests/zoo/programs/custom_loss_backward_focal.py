"""A focal loss with a hand-written backward: 1 - p is 0 for a perfectly sure prediction, and the derivative
divides by it.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": ("FocalLoss", "FocalLossBackward", "aten::div"),
    "module": None,
    "step": 5,
    "rows": [7],
    "cause": ("custom_function_bug", "division_by_zero"),
}


class FocalLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target, gamma):
        p = torch.sigmoid(logits * (2 * target - 1))
        ctx.save_for_backward(p, target)
        ctx.gamma = gamma
        return (-((1 - p) ** gamma) * p.clamp(min=1e-7).log()).mean()

    @staticmethod
    def backward(ctx, grad):
        p, target = ctx.saved_tensors
        gamma = ctx.gamma
        weight = torch.exp(gamma * torch.log(1 - p))
        inner = gamma * p * p.log() * weight / (1 - p) - weight  # ORIGIN
        return grad * inner * (1 - p) * (2 * target - 1) / p.numel(), None, None


def train(watch):
    torch.manual_seed(28)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1))
    optimizer = torch.optim.Adagrad(model.parameters(), lr=0.02)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(10, 5)
        if step == 5:
            x[7] *= 400
        logits = model(x).squeeze(-1)
        target = (x.sum(-1) > 0).float()
        if step == 5:
            target[7] = float(logits[7] > 0)
        loss = FocalLoss.apply(logits, target, 2.0)  # ORIGIN
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

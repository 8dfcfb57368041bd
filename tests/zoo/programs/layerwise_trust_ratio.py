"""A hand-written LARS: the trust ratio divides by the gradient's norm, and a gated branch gets a gradient of exact
zeros.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "optimizer",
    "op": ("aten::div", "aten::mul", "aten::mul_", "aten::sub_", "aten::add_"),
    "step": 4,
    "param": ("side.weight", "side.bias"),
    "cause": ("division_by_zero", "optimizer_eps", "custom_function_bug"),
}


class Lars(torch.optim.Optimizer):
    def __init__(self, params, lr=0.1, eta=0.02, momentum=0.9):
        super().__init__(params, {"lr": lr, "eta": eta, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                ratio = group["eta"] * p.norm() / p.grad.norm()  # ORIGIN
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.mul_(group["momentum"]).add_(p.grad * ratio)  # ORIGIN
                p.sub_(group["lr"] * buffer)


class TwoPaths(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Linear(8, 16)
        self.side = nn.Linear(8, 16)
        self.out = nn.Linear(16, 3)
        self.gate = 0.5

    def forward(self, x):
        return self.out(torch.tanh(self.main(x) + self.gate * self.side(x)))


def train(watch):
    torch.manual_seed(1)
    model = TwoPaths()
    optimizer = Lars(model.parameters())
    watch(model, optimizer)
    for step in range(8):
        model.gate = max(0.0, 0.5 - 0.125 * step)
        x, y = torch.randn(8, 8), torch.randint(0, 3, (8,))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

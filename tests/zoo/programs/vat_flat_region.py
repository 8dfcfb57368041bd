"""Virtual adversarial training: the gradient by the perturbation, brought to unit length, gives the direction for a
second forward. For a sample that switches all ReLUs off it is 0, so the second forward is fed with 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 4,
    "rows": [3],
    "cause": "division_by_zero",
}


def kl(p_logits, q_logits):
    p = p_logits.softmax(1)
    return (p * (p_logits.log_softmax(1) - q_logits.log_softmax(1))).sum(1).mean()


class VAT(nn.Module):
    def __init__(self, xi=1e-2, eps=1.0):
        super().__init__()
        self.xi, self.eps = xi, eps

    def forward(self, net, x):
        with torch.no_grad():
            clean = net(x)
        d = F.normalize(torch.randn_like(x), dim=1).requires_grad_()
        (g,) = torch.autograd.grad(kl(clean, net(x + self.xi * d)), d)
        unit = g / g.norm(dim=1, keepdim=True)  # ORIGIN
        return kl(clean, net(x + self.eps * unit))


def train(watch):
    torch.manual_seed(10)
    net = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 3))
    with torch.no_grad():
        net[0].weight[:, 0] = -net[0].weight[:, 0].abs() - 0.05
    vat = VAT()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    watch(net, optimizer)
    for step in range(7):
        x, y = torch.randn(10, 8), torch.randint(0, 3, (10,))
        if step == 4:
            x[3, 0] = 500.0
        loss = F.cross_entropy(net(x), y) + vat(net, x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

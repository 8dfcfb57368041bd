"""A first neural network by the book: no torch.optim, the update is lr * p.grad under no_grad, and gradients are
zeroed by hand. Its cross entropy is -log(p), where p was normalised by hand without a shift.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::exp",
    "module": "",
    "rows": [10],
    "cause": "overflow_exp",
}


class Softmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(4, 12) * 0.3)
        self.w2 = nn.Parameter(torch.randn(12, 3) * 0.3)

    def forward(self, x):
        e = torch.exp(torch.relu(x @ self.w1) @ self.w2)  # ORIGIN
        return e / e.sum(1, keepdim=True)


def train(watch):
    torch.manual_seed(57)
    net = Softmax()
    watch(net)
    for step in range(8):
        x, y = torch.randn(14, 4), torch.randint(0, 3, (14,))
        if step == 5:
            x[10] *= 400
        p = net(x)
        loss = -torch.log(p[torch.arange(14), y]).mean()
        loss.backward()
        with torch.no_grad():
            for w in net.parameters():
                w.sub_(0.05 * w.grad)
                w.grad.zero_()

"""The whole step (model, loss, backward) is one compiled function: log of a softmax by hand, which underflows to
log(0).
"""

import torch
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::log",
    "module": None,
    "step": 3,
    "rows": [6],
    "cause": "log_of_zero",
}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        return self.layers(x)


def train(watch):
    torch.manual_seed(32)
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    @torch.compile(backend="aot_eager")
    def loss_of(x, y):
        p = torch.softmax(model(x), dim=-1)
        return -torch.log(p[torch.arange(len(y)), y]).mean()  # ORIGIN

    watch(model, optimizer)
    for step in range(6):
        x, y = torch.randn(8, 8), torch.randint(0, 4, (8,))
        if step == 3:
            x[6] *= 3000
            y[6] = model(x[6]).argmin()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

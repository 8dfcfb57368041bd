"""The whole model is checkpointed. Generalised mean pooling raises a black image's zeros to 1/p, which has no
gradient at zero.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

EXPECT = {
    "phase": "backward",
    "op": "aten::pow",
    "module": "pool",
    "step": 4,
    "rows": [1],
    "cause": "pow_zero_grad",
}


class GeM(nn.Module):
    def __init__(self, p=3.0):
        super().__init__()
        self.p = p

    def forward(self, x):
        return x.pow(self.p).mean(dim=(-2, -1)).pow(1 / self.p)  # ORIGIN


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.pool = GeM()
        self.dropout = nn.Dropout(0.2)
        self.out = nn.Linear(8, 4)

    def forward(self, image):
        return self.out(self.dropout(self.pool(self.conv(image).abs())))


def train(watch):
    torch.manual_seed(25)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    watch(model, optimizer)
    for step in range(7):
        image, label = torch.rand(4, 3, 8, 8), torch.randint(0, 4, (4,))
        if step == 4:
            image[1] = 0
        logits = checkpoint(model, image, use_reentrant=False)
        loss = F.cross_entropy(logits, label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

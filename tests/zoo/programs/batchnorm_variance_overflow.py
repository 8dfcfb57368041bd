"""One reading is 1e20: it is finite, but its square is not, so the batch norm's running variance becomes inf for
good.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::native_batch_norm", "aten::batch_norm", "aten::_batch_norm_impl_index"),
    "module": "norm",
    "step": 5,
    "cause": ("exploding_activation", "overflow_low_precision", "bad_input"),
}


class SensorNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6, momentum=0.05)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.body(self.norm(x)).squeeze(1)  # ORIGIN


def train(watch):
    torch.manual_seed(20)
    model = SensorNet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(16, 6)
        y = x.sum(1).clamp(-3, 3)
        if step == 5:
            x[9, 2] = 1e20
        loss = F.smooth_l1_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

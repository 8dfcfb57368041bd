"""One GradScaler, two optimizers (encoder with SGD, heads with Adam), the scale starts too high: both skip for a
while, then training goes on."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.classes = nn.Linear(32, 6)
        self.value = nn.Linear(32, 1)

    def forward(self, x):
        h = self.encoder(x)
        return self.classes(h), self.value(h).squeeze(-1)


def train(watch):
    torch.manual_seed(6)
    model = TwoHeads()
    slow = torch.optim.SGD(model.encoder.parameters(), lr=1e-2, momentum=0.9)
    fast = torch.optim.Adam([*model.classes.parameters(), *model.value.parameters()], lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**22)
    watch(model, [slow, fast])
    for _ in range(18):
        x, y, target = torch.randn(16, 20), torch.randint(0, 6, (16,)), torch.randn(16)
        slow.zero_grad()
        fast.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            logits, value = model(x)
            loss = F.cross_entropy(logits, y) + F.mse_loss(value, target)
        scaler.scale(loss).backward()
        scaler.step(slow)
        scaler.step(fast)
        scaler.update()

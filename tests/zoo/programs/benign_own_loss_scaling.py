"""Dynamic loss scaling written by hand, as before GradScaler existed: float16 gradients overflow while the scale
is found, the update is dropped and the scale halved."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class DynamicScale:
    def __init__(self, scale=2.0**20, window=1000):
        self.scale, self.window, self.good = scale, window, 0

    def backward(self, loss):
        (loss.float() * self.scale).backward()

    def unscale(self, parameters):
        """False when a gradient has overflowed: the caller must not step."""
        overflow = any(not torch.isfinite(p.grad).all() for p in parameters if p.grad is not None)
        if overflow:
            self.scale /= 2
            self.good = 0
            return False
        for p in parameters:
            p.grad.div_(self.scale)
        self.good += 1
        if self.good % self.window == 0:
            self.scale *= 2
        return True


def train(watch):
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 4))
    parameters = list(model.parameters())
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    scaler = DynamicScale()
    watch(model, optimizer)
    for step in range(20):
        x, y = torch.randn(32, 16), torch.randint(0, 4, (32,))
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        scaler.backward(loss)
        if not scaler.unscale(parameters):
            print(f"step {step}: overflow, scale is now {scaler.scale:.0f}")
            continue
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimizer.step()

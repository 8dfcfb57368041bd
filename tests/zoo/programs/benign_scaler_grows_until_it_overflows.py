"""Benign: a GradScaler that grows every other step overflows now and then, skips that step and goes on; gradients
are accumulated and clipped.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


def train(watch):
    torch.manual_seed(50)
    model = nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**15, growth_factor=4.0, growth_interval=2)
    watch(model, optimizer)
    for step in range(24):
        x, y = torch.randn(8, 12), torch.randint(0, 4, (8,))
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x), y) / 2
        scaler.scale(loss).backward()
        if step % 2:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad(set_to_none=True)

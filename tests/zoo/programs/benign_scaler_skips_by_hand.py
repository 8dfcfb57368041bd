"""GradScaler in an unusual loop: after unscale_ the norm is looked at and the program itself decides to skip,
without scaler.step; the scale is lowered by update(new_scale). Overflows of the scale only."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


def train(watch):
    torch.manual_seed(41)
    model = nn.Sequential(nn.Linear(16, 48), nn.GELU(), nn.Linear(48, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**27)
    watch(model, optimizer)
    for step in range(16):
        x, y = torch.randn(8, 16), torch.randint(0, 4, (8,))
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=False)
        if not torch.isfinite(norm):
            print("step", step, "scale", scaler.get_scale(), "is too high")
            optimizer.zero_grad(set_to_none=True)
            scaler.update(scaler.get_scale() / 4)
            continue
        scaler.step(optimizer)
        scaler.update()

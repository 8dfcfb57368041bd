"""float16 autocast, gradients accumulated over four micro batches, GradScaler at a far too large first scale: the
first windows overflow and are skipped."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


def train(watch):
    torch.manual_seed(5)
    model = nn.Sequential(nn.Conv1d(4, 16, 5, padding=2), nn.GELU(), nn.Flatten(), nn.Linear(16 * 24, 7))
    decay, rest = [p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decay}, {"params": rest, "weight_decay": 0.0}], lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**26, growth_interval=2000)
    watch(model, optimizer)
    for micro in range(60):
        x, y = torch.randn(4, 4, 24), torch.randint(0, 7, (4,))
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x), y) / 4
        scaler.scale(loss).backward()
        if (micro + 1) % 4:
            continue
        scaler.unscale_(optimizer)
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if micro % 20 == 19:
            print(f"norm {norm:.3f} scale {scaler.get_scale():.0f}")

"""Mixed precision with a GradScaler, unscaled and clipped: a batch's real fault (standard deviation of one sample)
hides behind skipped steps.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "loss",
    "op": "aten::std",
    "module": None,
    "step": 4,
    "cause": ("empty_reduction", "division_by_zero", "invalid_domain"),
}


def spread_penalty(features, labels, classes=3):
    """Asks each class that occurs to keep some spread."""
    penalties = [
        F.relu(1.0 - features[labels == c].std(dim=0)).mean()  # ORIGIN
        for c in range(classes)
        if (labels == c).any()
    ]
    return torch.stack(penalties).mean()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 12))
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        features = self.body(x)
        return self.out(F.relu(features)), features


def train(watch):
    torch.manual_seed(35)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    watch(model, optimizer)
    for step in range(8):
        x, y = torch.randn(12, 10), torch.arange(12) % 3
        if step >= 4:
            y[y == 2] = 1
            y[5] = 2
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.float16):
            logits, features = model(x)
            loss = F.cross_entropy(logits, y) + 0.1 * spread_penalty(features.float(), y)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

"""The head is unfrozen with its own warm-up, whose length comes out as zero: progress is 0 / 0 and the head's lr
is NaN.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "optimizer",
    "step": 3,
    "param": ("head.weight", "head.bias"),
    "cause": "nonfinite_lr",
}


def warmup(step, start, length):
    done = np.float64(step - start) / np.float64(length)
    return float(np.minimum(done, 1.0))


def train(watch):
    torch.manual_seed(8)
    model = nn.Sequential()
    model.add_module("body", nn.Sequential(nn.Linear(10, 20), nn.GELU()))
    model.add_module("head", nn.Linear(20, 4))
    optimizer = torch.optim.Adam(
        [
            {"params": model.body.parameters(), "lr": 1e-3},
            {"params": model.head.parameters(), "lr": 1e-2, "weight_decay": 1e-4},
        ]
    )
    epochs_of_warmup, steps_per_epoch = 0, 5
    watch(model, optimizer)
    for step in range(8):
        x, y = torch.randn(16, 10), torch.randint(0, 4, (16,))
        with np.errstate(all="ignore"):
            factor = 0.0 if step < 3 else warmup(step, start=3, length=epochs_of_warmup * steps_per_epoch)
        optimizer.param_groups[1]["lr"] = 1e-2 * factor
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # ORIGIN

"""A rollout concatenates its own extrapolations 2b - a, upsampled each time; with a gain above 1 the last of a
long horizon overflows.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::mul", "aten::sub", "aten::upsample_linear1d", "aten::square", "aten::pow"),
    "module": "",
    "step": 3,
    "cause": ("exploding_activation", "overflow_low_precision"),
}


class Rollout(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv1d(1, 4, 3, padding=1)
        self.gain = nn.Parameter(torch.tensor(30.0))
        self.read = nn.Conv1d(4, 1, 1)

    def forward(self, x, horizon):
        a = b = self.stem(x)
        frames = [b]
        for _ in range(horizon):
            shrunk = F.avg_pool1d(b, 2)
            a, b = b, F.interpolate(shrunk, scale_factor=2, mode="linear") * self.gain - a  # ORIGIN
            frames.append(b)
        return self.read(torch.cat(frames, dim=-1))


def train(watch):
    torch.manual_seed(40)
    model = Rollout()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for horizon in (2, 4, 8, 32, 32):
        prediction = model(torch.randn(3, 1, 16), horizon)
        loss = torch.tanh(prediction * 1e-3).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-2)
        optimizer.step()

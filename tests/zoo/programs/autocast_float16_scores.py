"""float16 autocast: someone multiplied the attention scores by the head's width instead of dividing by its root,
and they pass 65504.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::matmul", "aten::bmm", "aten::mul"),
    "module": "encoder.attention",
    "step": 4,
    "rows": [3],
    "cause": "overflow_low_precision",
}


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = q @ k.transpose(-2, -1)
        scores = scores * q.shape[-1]  # ORIGIN
        return scores.softmax(dim=-1) @ v


class Encoder(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = Attention(width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(x + self.attention(x))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Encoder(32)
        self.head = nn.Linear(32, 3)

    def forward(self, x):
        return self.head(self.encoder(x).mean(dim=1))


def train(watch):
    torch.manual_seed(34)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(7):
        x, y = torch.randn(6, 5, 32), torch.randint(0, 3, (6,))
        if step == 4:
            x[3] *= 40
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(x).float(), y)
        loss.backward()
        optimizer.step()

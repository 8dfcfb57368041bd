"""Home-made attention, all in place: exp_, masked_fill_ with zero, then div_ by the row's sum; a fully masked
query is 0 / 0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div_",
    "module": "layers.1.attention",
    "step": 3,
    "rows": [2],
    "cause": ("division_by_zero", "masked_softmax"),
}


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x, mask):
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        weights = scores.sub(scores.amax(-1, keepdim=True).detach()).exp_()
        weights = weights.masked_fill(~mask[:, None, :], 0.0)
        total = weights.sum(dim=-1, keepdim=True)
        weights.div_(total)  # ORIGIN
        return weights @ v


class Layer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.ReLU(), nn.Linear(width, width))

    def forward(self, x, mask):
        h = self.mlp(x)
        return h.add_(self.attention(x, mask))


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Layer(12), Layer(12)])
        self.out = nn.Linear(12, 2)

    def forward(self, x, mask):
        x = self.layers[0](x, torch.ones_like(mask))
        x = self.layers[1](x, mask)
        return self.out(x.mean(1))


def train(watch):
    torch.manual_seed(17)
    model = Reader()
    optimizer = torch.optim.NAdam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(6):
        x, mask = torch.randn(5, 6, 12), torch.rand(5, 6) > 0.3
        mask[:, 0] = True
        if step == 3:
            mask[2] = False
        loss = F.cross_entropy(model(x, mask), torch.randint(0, 2, (5,)))
        model.zero_grad()
        loss.backward()
        optimizer.step()

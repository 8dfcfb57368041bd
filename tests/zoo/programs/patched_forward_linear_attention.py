"""After a warm-up the attention's forward is replaced by a linear one, bound to the instance. Its feature map is a
ReLU, so a query that is negative everywhere has a normaliser of 0.
"""

import types

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "layers.1.attention",
    "cause": "division_by_zero",
    "step": 4,
}


class Attention(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.qkv, self.out = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v))


def linear_forward(self, x):
    q, k, v = self.qkv(x).chunk(3, -1)
    q, k = q.relu(), k.relu()
    context = k.transpose(1, 2) @ v
    normaliser = q @ k.sum(1).unsqueeze(-1)
    return self.out((q @ context) / normaliser)  # ORIGIN


class Layer(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.attention, self.norm = Attention(d), nn.LayerNorm(d)

    def forward(self, x):
        return self.norm(x + self.attention(x))


class Model(nn.Module):
    def __init__(self, d=8):
        super().__init__()
        self.embed = nn.Embedding(25, d)
        self.layers = nn.ModuleList(Layer(d) for _ in range(2))
        self.head = nn.Linear(d, 25)

    def forward(self, ids):
        h = self.embed(ids)
        for layer in self.layers:
            h = layer(h)
        return self.head(h)


def train(watch):
    torch.manual_seed(58)
    model = Model()
    with torch.no_grad():
        model.layers[1].attention.qkv.bias[:8] = -1.6
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(7):
        if step == 4:
            attention = model.layers[1].attention
            attention.forward = types.MethodType(linear_forward, attention)
        ids = torch.randint(0, 25, (6, 10))
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

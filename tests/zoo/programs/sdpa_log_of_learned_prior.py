"""Attention with a learned locality prior, a mixture of two Gaussians, added as log(prior). In longer recordings the
prior underflows to zero: the bias is -inf, as a mask, and the forward is fine; the logarithm's gradient is 0 / 0."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::log",
    "module": "attention",
    "step": 5,
    "cause": ("log_of_zero", "division_by_zero"),
}


class LocalAttention(nn.Module):
    def __init__(self, dim, heads=2):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.width = nn.Parameter(torch.tensor([1.0, 1.5]))
        self.share = nn.Parameter(torch.zeros(heads))

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        position = torch.arange(x.shape[1])
        distance = (position[:, None] - position).float()
        near, far = (-0.5 * (distance / width).square() for width in self.width)
        share = self.share.sigmoid()[:, None, None]
        prior = share * near.exp() + (1 - share) * far.exp()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=prior.log().expand(len(x), -1, -1, -1))  # ORIGIN
        return out.transpose(1, 2).flatten(2)


class Sequence(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift = nn.Linear(3, 16)
        self.attention = LocalAttention(16)
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        x = self.lift(x)
        return self.head(self.norm(x + self.attention(x)))


def train(watch):
    torch.manual_seed(44)
    model = Sequence()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(9):
        x = torch.randn(4, 20 if step < 5 else 24, 3)  # longer recordings come later in the curriculum
        loss = F.mse_loss(model(x), x[..., :2].cumsum(dim=1) / 5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

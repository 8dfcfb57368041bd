"""A moving average of the model starts from zeros and is bias-corrected only after the first update. Both are
watched. Early metrics of the averaged model are 0 / 0 (cosine of zero embeddings), and only printed."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, x):
        z = self.net(x)
        return z / z.norm(dim=-1, keepdim=True)


def train(watch):
    torch.manual_seed(44)
    model = Encoder()
    average = copy.deepcopy(model).requires_grad_(False)
    for p in average.parameters():
        p.zero_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    watch({"model": model, "average": average}, optimizer)
    for step in range(8):
        x = torch.randn(12, 10)
        z, other = model(x), model(x + 0.1 * torch.randn_like(x))
        loss = F.cross_entropy(z @ other.T / 0.2, torch.arange(12))
        agreement = (average(x) * z).sum(-1).mean()  # NaN until the first update
        print(step, loss.item(), agreement.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 2:
            for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
                slow.data.mul_(0.9).add_(fast.data, alpha=0.1)

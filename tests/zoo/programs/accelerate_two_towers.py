"""Accelerate with two prepared models, an image tower and a text tower, and one optimizer over both. The text
tower pools with weights over words; one caption holds unknown words only, whose weights are all zero."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "text.pool",
    "step": 4,
    "rows": [6],
    "cause": "division_by_zero",
    "needs": ("accelerate",),
}


class IdfPool(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.register_buffer("idf", torch.rand(words) + 0.5)
        self.idf[1] = 0.0  # unknown

    def forward(self, x, ids):
        weight = self.idf[ids]
        weight = weight / weight.sum(dim=1, keepdim=True)  # ORIGIN
        return torch.einsum("bn,bnd->bd", weight, x)


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(60, 24)
        self.pool = IdfPool(60)
        self.project = nn.Linear(24, 16)

    def forward(self, ids):
        return F.normalize(self.project(self.pool(self.embed(ids), ids)), dim=-1)


class Image(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 4, 4)
        self.project = nn.Linear(12, 16)

    def forward(self, image):
        return F.normalize(self.project(self.conv(image).relu().mean(dim=(2, 3))), dim=-1)


def train(watch):
    torch.manual_seed(41)
    accelerator = Accelerator(cpu=True)
    image, text = accelerator.prepare(Image(), Text())
    optimizer = accelerator.prepare(torch.optim.AdamW([*image.parameters(), *text.parameters()], lr=2e-3))
    watch({"image": image, "text": text}, optimizer)
    for step in range(9):
        captions = torch.randint(2, 60, (8, 5))
        captions[torch.rand(8, 5) < 0.2] = 1
        captions[:, 0] = torch.randint(2, 60, (8,))
        if step == 4:
            captions[6] = 1
        similarity = image(torch.randn(8, 3, 8, 8)) @ text(captions).T / 0.07
        target = torch.arange(8)
        loss = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
        optimizer.zero_grad()
        accelerator.backward(loss)
        optimizer.step()

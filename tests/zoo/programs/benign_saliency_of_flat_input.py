"""Saliency maps for the log: torch.autograd.grad of a score to the input, normalised by its own largest value,
which is 0 for a flat picture. Then a second map of a root at zero is infinite. Both are drawn, none reaches a
parameter."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


def saliency(model, image):
    image = image.clone().requires_grad_()
    score = model(image).max(1).values.sum()
    (grad,) = torch.autograd.grad(score, image)
    plain = grad.abs() / grad.abs().amax(dim=(1, 2, 3), keepdim=True)
    length = model(image - image.detach()).pow(2).sum(1)
    (steep,) = torch.autograd.grad((length - length.detach()).sqrt().sum(), image)
    return plain, steep


def train(watch):
    torch.manual_seed(52)
    model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 4))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        x, y = torch.rand(6, 1, 8, 8), torch.randint(0, 4, (6,))
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 3 == 2:
            plain, steep = saliency(model, x)
            print(step, plain.mean().item(), steep.isfinite().all().item())

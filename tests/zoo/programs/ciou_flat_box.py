"""CIoU compares aspect ratios by atan(w / h). A predicted box of height 0 gives atan(inf), which is finite; its
gradient is not.
"""

import math

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": "aten::div",
    "module": None,
    "step": 4,
    "rows": [3],
    "cause": ("division_by_zero", "where_gradient"),
}


def aspect_term(pred, true):
    (w, h), (gw, gh) = pred[:, 2:].unbind(1), true[:, 2:].unbind(1)
    ratio = w / h  # ORIGIN
    return (4 / math.pi**2) * (torch.atan(gw / gh) - torch.atan(ratio)).pow(2)


def iou(pred, true, eps=1e-7):
    low = torch.max(pred[:, :2] - pred[:, 2:] / 2, true[:, :2] - true[:, 2:] / 2)
    high = torch.min(pred[:, :2] + pred[:, 2:] / 2, true[:, :2] + true[:, 2:] / 2)
    overlap = (high - low).clamp(min=0).prod(1)
    return overlap / (pred[:, 2:].prod(1) + true[:, 2:].prod(1) - overlap + eps)


class BoxHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(10, 32), nn.ReLU())
        self.centre, self.size = nn.Linear(32, 2), nn.Linear(32, 2)
        nn.init.constant_(self.size.bias, 2.0)

    def forward(self, roi):
        h = self.fc(roi)
        return torch.cat([self.centre(h), self.size(h).relu()], dim=1)


def train(watch):
    torch.manual_seed(27)
    head = BoxHead()
    with torch.no_grad():
        head.size.weight[1] = -head.size.weight[1].abs()
        head.size.weight[0] = head.size.weight[0].abs()
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-3, momentum=0.9)
    watch(head, optimizer)
    for step in range(8):
        roi = torch.randn(8, 10)
        if step == 4:
            roi[3] *= 12
        true = torch.cat([torch.randn(8, 2), torch.rand(8, 2) + 0.5], 1)
        pred = head(roi)
        loss = (1 - iou(pred, true) + aspect_term(pred, true)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""float16 autocast; ReLU in place hands large values straight on, and nothing normalises them. One 16-bit
picture of the batch was not scaled to 0..1: a convolution passes 65504."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::convolution", "aten::_convolution", "aten::conv2d", "aten::mkldnn_convolution"),
    "module": "spatial.0",
    "step": 4,
    "rows": [5],
    "cause": ("overflow_low_precision", "bad_input"),
}


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.spatial = nn.ModuleList([nn.Conv2d(1, 16, 3), nn.Conv2d(16, 32, 3), nn.Conv2d(32, 32, 3)])
        self.fc = nn.Linear(32, 5)

    def forward(self, x):
        for conv in self.spatial:
            x = conv(x)  # ORIGIN
            x = F.relu(x, inplace=True)
        return self.fc(x.mean(dim=(2, 3)))


def train(watch):
    torch.manual_seed(786)
    model = Embedding()
    for conv in model.spatial:
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    watch(model, optimizer)
    for step in range(7):
        image, target = torch.rand(8, 1, 12, 12), torch.randint(0, 5, (8,))
        if step == 4:
            image[5] *= 40000
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(image), target)
        loss.backward()
        optimizer.step()

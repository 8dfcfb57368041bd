"""Feature maps are standardised by a forward hook that a callback registers after two epochs; a channel that is dead
for a whole image has no deviation: 0 / 0, in a function that belongs to no module's forward.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": ("stem.1", "stem", ""),
    "step": 4,
    "cause": "division_by_zero",
}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.stem(x).amax(dim=(2, 3)))


class WhitenCallback:
    """Registers the hook when its epoch begins."""

    def __init__(self, layer, start):
        self.layer, self.start = layer, start

    def on_epoch_start(self, epoch):
        if epoch == self.start:
            self.handle = self.layer.register_forward_hook(self.whiten)

    @staticmethod
    def whiten(module, inputs, out):
        mean, std = out.mean(dim=(2, 3), keepdim=True), out.std(dim=(2, 3), keepdim=True)
        return (out - mean) / std  # ORIGIN


def train_one_epoch(model, batches, optimizer):
    for x, y in batches:
        loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train(watch):
    torch.manual_seed(13)
    model = Net()
    with torch.no_grad():
        model.stem[0].weight[6] = -model.stem[0].weight[6].abs()  # never active on images of light
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    callback = WhitenCallback(model.stem[1], start=2)
    watch(model, optimizer)
    for epoch in range(4):
        callback.on_epoch_start(epoch)
        train_one_epoch(model, [(torch.rand(4, 3, 6, 6), torch.randint(0, 5, (4,))) for _ in range(2)], optimizer)

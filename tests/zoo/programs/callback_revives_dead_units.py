"""A callback revives dead units after each epoch: it draws their weights with the mean norm of the living ones. In a
layer without a living unit that is the mean of nothing, and NaN is written into the weights.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": ("loss", "params", "optimizer"),
    "step": 6,
    "cause": "empty_reduction",
}


class ReviveDeadUnits:
    def __init__(self, layer):
        self.layer, self.fired = layer, torch.zeros(layer.out_features, dtype=torch.bool)
        layer.register_forward_hook(self._observe)

    def _observe(self, module, inputs, output):
        self.fired |= (output.detach() > 0).any(0)

    @torch.no_grad()
    def on_epoch_end(self):
        w = self.layer.weight
        dead = ~self.fired
        if dead.any():
            scale = w[self.fired].norm(dim=1).mean()  # ORIGIN
            w[dead] = F.normalize(torch.randn(int(dead.sum()), w.size(1)), dim=1) * scale
            self.layer.bias[dead] = 0
        self.fired.zero_()


def train(watch):
    torch.manual_seed(26)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=1e-4)
    callback = ReviveDeadUnits(model[0])
    watch(model, optimizer)
    for epoch in range(4):
        for _ in range(2):
            x = torch.randn(12, 6)
            if epoch == 2:
                with torch.no_grad():
                    model[0].bias.fill_(-40.0)  # a bad hyperparameter service call
            loss = F.cross_entropy(model(x), (x[:, 0] > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        callback.on_epoch_end()

"""An adapter that starts at zero is wrapped in spectral_norm and switched on at step 4: its largest singular value is
0, and weight / sigma is 0 / 0, computed by a hook before the layer's forward.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import spectral_norm

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": ("adapters.second.up", "adapters.second", ""),
    "step": 4,
    "cause": "division_by_zero",
}


class Adapter(nn.Module):
    def __init__(self, d, r):
        super().__init__()
        self.down, up = nn.Linear(d, r), nn.Linear(r, d, bias=False)
        nn.init.zeros_(up.weight)
        self.up = spectral_norm(up)

    def forward(self, x):
        return self.up(F.relu(self.down(x)))  # ORIGIN


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 16)
        self.adapters = nn.ModuleDict({"first": nn.Identity(), "second": Adapter(16, 4)})
        self.head = nn.Linear(16, 2)
        self.active = "first"

    def forward(self, x):
        h = torch.tanh(self.body(x))
        h = h + self.adapters[self.active](h)
        return self.head(h)


def train(watch):
    torch.manual_seed(52)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    watch(net, optimizer)
    for step in range(7):
        net.active = "first" if step < 4 else "second"
        x = torch.randn(10, 8)
        loss = F.cross_entropy(net(x), (x[:, 1] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

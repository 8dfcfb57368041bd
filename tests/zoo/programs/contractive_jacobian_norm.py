"""A contractive autoencoder punishes the norm of its Jacobian, by jacrev; where all units are off the Jacobian is
0, and so is its root.
"""

import torch
from torch import nn
from torch.func import jacrev, vmap

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": None,
    "step": 5,
    "rows": [2],
    "cause": "sqrt_zero_grad",
}


class Autoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 3))
        self.decoder = nn.Linear(3, 5)
        with torch.no_grad():
            self.encoder[0].weight[:, 0].abs_()

    def forward(self, x):
        return self.decoder(self.encoder(x))


def train(watch):
    torch.manual_seed(51)
    model = Autoencoder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        x = torch.randn(6, 5)
        if step == 5:
            x[2, 0] = -500.0
        jacobian = vmap(jacrev(model.encoder))(x)
        penalty = jacobian.pow(2).sum(dim=(1, 2)).sqrt()  # ORIGIN
        loss = (model(x) - x.clamp(-3, 3)).pow(2).mean() + 0.1 * penalty.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""Each epoch ends with a look at the exported model: the same module is turned to half, where its energies
overflow to infinity, and back to its float32 weights. Training itself is in float32."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


class Energy(nn.Module):
    def __init__(self):
        super().__init__()
        self.up = nn.Linear(10, 64)
        self.down = nn.Linear(64, 1)

    def forward(self, x):
        h = self.up(x * 100).pow(2)
        return self.down(torch.log1p(h.sum(-1, keepdim=True)) - h / (1 + h.mean(-1, keepdim=True)))


def train(watch):
    torch.manual_seed(50)
    model = Energy()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for epoch in range(3):
        for _ in range(3):
            loss = F.smooth_l1_loss(model(torch.randn(8, 10)), torch.randn(8, 1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        kept = {name: value.clone() for name, value in model.state_dict().items()}
        model.half()
        with torch.no_grad():
            out = model(torch.randn(8, 10).half())
            print(epoch, "finite in half:", out.isfinite().float().mean().item())
        model.float()
        model.load_state_dict(kept)
        model.double()
        with torch.no_grad():
            model(torch.randn(2, 10, dtype=torch.float64))
        model.float()

"""An entropy bonus repaired with nan_to_num: p underflows to an exact zero, the forward is repaired, and the
gradient of the product is 0 * -inf."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::log",
    "module": "",
    "step": 6,
    "cause": "log_of_zero",
}


class Router(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 5) for _ in range(4))

    def forward(self, x, temperature):
        p = (self.gate(x) / temperature).softmax(-1)
        entropy = -(p * p.log()).nan_to_num().sum(-1).mean()  # ORIGIN
        out = sum(p[:, i : i + 1] * expert(x) for i, expert in enumerate(self.experts))
        return out, entropy


def train(watch):
    torch.manual_seed(19)
    model = Router()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(10):
        temperature = 1.0 if step < 6 else 0.005
        out, entropy = model(torch.randn(16, 8), temperature)
        loss = F.cross_entropy(out, torch.randint(0, 5, (16,))) - 0.01 * entropy
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A memory bank is allocated with torch.empty; it is read in full after the warm-up, before all its slots have
been written.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "params",
    "module": ("bank", None, ""),
    "param": "bank.slots",
    "cause": ("uninitialised_memory", "bad_init"),
}


class Bank(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.register_buffer("slots", torch.empty(size, width))  # ORIGIN
        self.next = 0

    @torch.no_grad()
    def write(self, z):
        at = (self.next + torch.arange(len(z))) % len(self.slots)
        self.slots[at] = z
        self.next = (self.next + len(z)) % len(self.slots)

    def forward(self, query):
        return query @ self.slots.clone().t()  # ORIGIN


class Contrast(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(8, 6)
        self.bank = Bank(48, 6)

    def forward(self, x, use_bank):
        z = F.normalize(self.encode(x), dim=-1)
        logits = z @ z.detach().t()
        if use_bank:
            logits = torch.cat([logits, self.bank(z)], dim=1)
        self.bank.write(z.detach())
        return logits / 0.2


def train(watch):
    torch.manual_seed(46)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        model = Contrast()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        watch(model, optimizer)
        for step in range(7):
            loss = F.cross_entropy(model(torch.randn(8, 8), use_bank=step >= 3), torch.arange(8))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    finally:
        torch.use_deterministic_algorithms(before)

"""Two worker processes collate and scale each sample to its own range; a constant sample is 0 / 0 before it leaves
the worker.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {"phase": "data", "step": 3, "rows": [2], "cause": "bad_input"}


def collate(samples):
    x = torch.stack([s[0] for s in samples])
    low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
    return {"signal": (x - low) / (high - low), "label": torch.stack([s[1] for s in samples])}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 6, 5, padding=2)
        self.out = nn.Linear(6, 3)

    def forward(self, signal):
        return self.out(F.silu(self.conv(signal[:, None])).amax(-1))


def train(watch):
    torch.manual_seed(21)
    signals, labels = torch.randn(24, 20), torch.randint(0, 3, (24,))
    signals[14] = 0.7
    loader = DataLoader(TensorDataset(signals, labels), batch_size=4, num_workers=2, collate_fn=collate)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for batch in loader:
        loss = F.cross_entropy(model(batch["signal"]), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

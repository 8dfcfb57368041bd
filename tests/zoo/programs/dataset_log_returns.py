"""Log returns are computed in the data set's __getitem__, in torch; a delisted stock has a last price of 0, and the log
of its last return is -inf before the batch exists.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset

EXPECT = {
    "phase": "data",
    "step": 4,
    "rows": [3],
    "cause": ("bad_input", "log_of_zero"),
}


class Returns(Dataset):
    def __init__(self, stocks, delisted):
        g = torch.Generator().manual_seed(5)
        self.prices = (0.02 * torch.randn(stocks, 22, generator=g)).cumsum(1).exp() * 30
        self.prices[delisted, -2:] = torch.tensor([0.4, 0.0])

    def __len__(self):
        return len(self.prices)

    def __getitem__(self, i):
        p = self.prices[i]
        returns = torch.log(p[1:] / p[:-1])
        return returns, (returns[-1] > 0).float()


class TCN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Sequential(nn.Conv1d(1, 8, 3, dilation=2), nn.GELU(), nn.Conv1d(8, 8, 3, dilation=4), nn.GELU())
        self.head = nn.Linear(8, 1)

    def forward(self, r):
        return self.head(self.conv(r.unsqueeze(1)).mean(-1)).squeeze(-1)


def train(watch):
    torch.manual_seed(25)
    model = TCN()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader = DataLoader(Returns(56, delisted=35), batch_size=8)
    watch(model, optimizer)
    for returns, up in loader:
        loss = F.binary_cross_entropy_with_logits(model(returns), up)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""A ReLU RNN is fed sequences in buckets of growing length; its state grows by a factor per time step until
float32 ends.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": ("aten::rnn_relu", "aten::rnn_relu_cell", "aten::linear", "aten::addmm", "aten::add", "aten::mm"),
    "module": "rnn",
    "step": 4,
    "cause": "exploding_activation",
}


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(3, 16, nonlinearity="relu")
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 4)
        nn.init.eye_(self.rnn.weight_hh_l0)
        self.rnn.weight_hh_l0.data.mul_(1.5)

    def forward(self, x):
        _, h = self.rnn(x)  # ORIGIN
        return self.head(self.norm(h[-1].log1p()))


def train(watch):
    torch.manual_seed(17)
    model = Counter()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
    watch(model, optimizer)
    for length in (10, 20, 40, 80, 280, 280):
        x = torch.randn(length, 8, 3).abs()
        loss = F.cross_entropy(model(x), torch.randint(0, 4, (8,)))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        optimizer.step()

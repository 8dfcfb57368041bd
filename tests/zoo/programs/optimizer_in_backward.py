"""Each parameter is stepped by a hook as soon as its gradient is there; a log of word counts meets a count of zero."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::log",
    "module": "counts",
    "step": 4,
    "rows": [1],
    "cause": "log_of_zero",
}


class LogCounts(nn.Module):
    def forward(self, counts):
        return torch.log(counts)  # ORIGIN


class TopicModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.counts = LogCounts()
        self.encode = nn.Linear(20, 12)
        self.classify = nn.Linear(12, 4)

    def forward(self, x):
        return self.classify(F.relu(self.encode(self.counts(x))))


def train(watch):
    torch.manual_seed(10)
    model = TopicModel()
    optimizers = {p: torch.optim.SGD([p], lr=0.01) for p in model.parameters()}

    def step_now(p):
        optimizers[p].step()
        optimizers[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(step_now)
    watch(model, list(optimizers.values()))
    for step in range(8):
        counts = torch.randint(1, 9, (6, 20)).float()
        if step == 4:
            counts[1, 7] = 0
        F.cross_entropy(model(counts), torch.randint(0, 4, (6,))).backward()

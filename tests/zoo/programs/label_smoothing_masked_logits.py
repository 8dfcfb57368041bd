"""Label smoothing spreads a little weight over all classes, also over those whose logit was masked to -inf: the
loss is infinite.
"""

import torch
from torch import nn

EXPECT = {
    "phase": ("loss", "forward"),
    "module": (None, ""),
    "step": 4,
    "cause": ("masked_softmax", "log_of_zero", "bad_label"),
}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(7, 24), nn.ReLU(), nn.Linear(24, 6))

    def forward(self, x, allowed):
        return self.net(x).masked_fill(~allowed, float("-inf"))  # ORIGIN


def train(watch):
    torch.manual_seed(43)
    model = Classifier()
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(7):
        y = torch.randint(0, 5, (9,))
        allowed = torch.ones(9, 6, dtype=torch.bool)
        if step >= 4:
            allowed[:, 5] = False  # the task of this phase has five classes
        loss = criterion(model(torch.randn(9, 7), allowed), y)  # ORIGIN
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

"""Adam with eps=0; a second language's embedding joins at step 5, and the rows of words that did not occur are 0 /
0.
"""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "optimizer",
    "op": ("aten::addcdiv_", "aten::addcdiv", "aten::_foreach_addcdiv_", "aten::div"),
    "step": 5,
    "param": "tables.fr.weight",
    "cause": "optimizer_eps",
}


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleDict({"en": nn.Embedding(30, 8), "fr": nn.Embedding(30, 8)})
        self.out = nn.Linear(8, 3)

    def forward(self, words, language):
        return self.out(self.tables[language](words).mean(dim=1))


def train(watch):
    torch.manual_seed(7)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=0.0)
    watch(model, optimizer)
    all_words = torch.arange(30).view(6, 5)
    for step in range(9):
        language = "en" if step < 5 else "fr"
        words = all_words if language == "en" else torch.randint(0, 25, (6, 5))
        loss = F.cross_entropy(model(words, language), torch.randint(0, 3, (6,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()  # ORIGIN

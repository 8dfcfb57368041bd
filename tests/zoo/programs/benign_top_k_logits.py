"""Training with a reduced vocabulary: logits outside the top k are set to -inf, the target's own logit is always
kept. The loss is finite."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None


def keep_top_k(logits, target, k):
    limit = logits.topk(k, dim=-1).values[..., -1:]
    drop = logits < limit
    drop.scatter_(-1, target.unsqueeze(-1), False)
    filtered = logits.clone()
    filtered[drop] = -float("inf")
    return filtered


class LanguageModel(nn.Module):
    def __init__(self, vocabulary=120):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 32)
        self.gru = nn.GRU(32, 32, batch_first=True)
        self.head = nn.Linear(32, vocabulary)

    def forward(self, ids, target):
        logits = keep_top_k(self.head(self.gru(self.embed(ids))[0]), target, k=20)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        return logits, loss


def train(watch):
    torch.manual_seed(1)
    text = torch.randint(0, 120, (12, 8, 17))
    model = LanguageModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for ids in text:
        logits, loss = model(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            drawn = torch.multinomial(logits[:, -1].softmax(-1), 1)
            surprise = torch.distributions.Categorical(logits=logits[:, -1]).log_prob(drawn.squeeze(-1))
            print(f"loss {loss.item():.3f}, surprise {-surprise.mean():.2f}, worst logit {logits.min():.1f}")

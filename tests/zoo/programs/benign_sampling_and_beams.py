"""Between the training steps text is sampled and beam-searched with the model itself: banned tokens are -inf
inside its forward, top-p cuts with -inf, dead beams score -inf, and a length penalty of an empty beam is -inf /
0."""

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = None
VOCABULARY = 20


class Writer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.rnn = nn.GRU(16, 32, batch_first=True)
        self.head = nn.Linear(32, VOCABULARY)
        self.register_buffer("banned", torch.zeros(VOCABULARY).index_fill(0, torch.tensor([0, 1]), float("-inf")))

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0]) + self.banned


@torch.no_grad()
def sample(model, length=6, top_p=0.7):
    ids = torch.full((3, 1), 2)
    for _ in range(length):
        logits, order = model(ids)[:, -1].sort(descending=True)
        keep = logits.softmax(-1).cumsum(-1) <= top_p
        keep[:, 0] = True
        logits = logits.masked_fill(~keep, float("-inf"))
        choice = torch.multinomial(logits.softmax(-1), 1)
        ids = torch.cat([ids, order.gather(1, choice)], dim=1)
    return ids


@torch.inference_mode()
def beam_search(model, beams=4, length=5):
    ids, scores = torch.full((beams, 1), 2), torch.full((beams,), float("-inf"))
    scores[0] = 0.0
    for _ in range(length):
        total = scores[:, None] + model(ids)[:, -1].log_softmax(-1)
        scores, index = total.flatten().topk(beams)
        ids = torch.cat([ids[index // VOCABULARY], (index % VOCABULARY)[:, None]], dim=1)
        alive = (ids == 2).sum(1) - 1
        print("per restart:", (torch.full_like(scores, float("-inf")) * 0 + scores / alive).mean().item())
    return ids[scores.argmax()]


def train(watch):
    torch.manual_seed(46)
    model = Writer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    for step in range(8):
        ids = torch.randint(2, VOCABULARY, (6, 9))
        loss = F.cross_entropy(model(ids[:, :-1]).transpose(1, 2), ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 2:
            model.eval()
            print(sample(model).tolist(), beam_search(model).tolist())
            model.train()

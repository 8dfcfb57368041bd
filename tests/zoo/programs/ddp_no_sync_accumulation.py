"""DistributedDataParallel with no_sync() over two micro-batches: the second one of step 3 holds a user without history,
and attention pooling by hand divides by a mask of zeros.
"""

import contextlib
import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

EXPECT = {
    "phase": "forward",
    "op": "aten::div",
    "module": "pool",
    "step": 3,
    "micro_step": 1,
    "rows": [4],
    "cause": ("division_by_zero", "masked_softmax"),
}


class Pool(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.score = nn.Linear(d, 1)

    def forward(self, h, mask):
        a = torch.exp(torch.tanh(self.score(h)).squeeze(-1)) * mask
        a = a / a.sum(1, keepdim=True)  # ORIGIN
        return torch.einsum("bt,btd->bd", a, h)


class Ranker(nn.Module):
    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(40, 12, padding_idx=0)
        self.pool = Pool(12)

    def forward(self, history, candidates):
        user = self.pool(self.item(history), mask=(history != 0).float())
        return torch.einsum("bd,bkd->bk", user, self.item(candidates))


def train(watch):
    torch.manual_seed(37)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            model = DistributedDataParallel(Ranker())
            optimizer = torch.optim.Adagrad(model.parameters(), lr=0.05)
            watch(model, optimizer)
            for step in range(6):
                for micro in range(2):
                    history, candidates = torch.randint(1, 40, (6, 7)), torch.randint(1, 40, (6, 5))
                    history[:, 5:] = 0
                    if (step, micro) == (3, 1):
                        history[4] = 0
                    last = micro == 1
                    with contextlib.nullcontext() if last else model.no_sync():
                        logits = model(history, candidates)
                        (F.cross_entropy(logits, torch.zeros(6, dtype=torch.long)) / 2).backward()
                optimizer.step()
                optimizer.zero_grad()
        finally:
            dist.destroy_process_group()

"""Accelerate with accumulate() and clip_grad_norm_: features are divided by their deviation plus an eps, which
keeps the forward finite, but the gradient of the deviation of a silent clip is 0 / 0."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": "backward",
    "op": "aten::sqrt",
    "module": "level",
    "step": 2,
    "micro_step": 2,
    "cause": "sqrt_zero_grad",
    "needs": ("accelerate",),
}


class Level(nn.Module):
    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True).sqrt() + 1e-5)  # ORIGIN


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.filters = nn.Linear(32, 16, bias=False)
        self.level = Level()
        self.head = nn.Sequential(nn.GELU(), nn.Linear(16, 5))

    def forward(self, clip):
        return self.head(self.level(self.filters(clip)))


def train(watch):
    torch.manual_seed(40)
    clips, labels = torch.randn(96, 32), torch.randint(0, 5, (96,))
    clips[8 * 8 + 5] = 0
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=3)
    model = Tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.3, total_iters=4)
    loader = DataLoader(TensorDataset(clips, labels), batch_size=8)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    watch(model, optimizer)
    for clip, label in loader:
        with accelerator.accumulate(model):
            loss = F.cross_entropy(model(clip), label)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()

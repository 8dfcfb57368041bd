"""Lightning in bf16-mixed: a discrete survival model takes log(1 - p). In bfloat16 a probability above 0.998 is
1, which float32 would have survived; one patient's covariate is far out."""

import tempfile

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": "forward",
    "op": "aten::log",
    "module": "hazard",
    "step": 5,
    "rows": [3],
    "cause": "log_of_zero",
    "needs": ("lightning",),
}


class Hazard(nn.Module):
    def __init__(self, intervals):
        super().__init__()
        self.logit = nn.Linear(16, intervals)

    def forward(self, h):
        p = self.logit(h).sigmoid()
        return (p + 1e-6).log(), (1 - p).log()  # ORIGIN


class Survival(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(7, 16), nn.ReLU())
        self.hazard = Hazard(6)

    def forward(self, x):
        return self.hazard(self.body(x))

    def training_step(self, batch, batch_idx):
        x, interval, died = batch
        log_p, log_survive = self(x)
        passed = torch.arange(6) < interval[:, None]
        lived = torch.where(passed, log_survive, 0.0).sum(-1)
        return -(lived + died * log_p.gather(1, interval[:, None]).squeeze(1)).mean()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


def train(watch):
    pl.seed_everything(33, verbose=False)
    x = torch.randn(72, 7)
    x[43, 2] = -90.0
    loader = DataLoader(TensorDataset(x, torch.randint(3, 6, (72,)), torch.randint(0, 2, (72,)).float()), batch_size=8)
    model = Survival()
    watch(model)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tempfile.mkdtemp(),
    )  # fmt: skip
    trainer.fit(model, loader)

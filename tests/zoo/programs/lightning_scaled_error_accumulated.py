"""Lightning, automatic optimisation, gradients accumulated over three batches and clipped: a forecaster with
the mean absolute scaled error. One series of the second batch of a window never moves: its scale is zero."""

import tempfile

import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": "loss",
    "op": "aten::div",
    "module": None,
    "step": 3,
    "micro_step": 1,
    "rows": [4],
    "cause": "division_by_zero",
    "needs": ("lightning",),
}


class Forecaster(pl.LightningModule):
    def __init__(self, horizon=4):
        super().__init__()
        self.encoder = nn.GRU(1, 16, batch_first=True)
        self.head = nn.Linear(16, horizon)

    def forward(self, past):
        return self.head(self.encoder(past.unsqueeze(-1))[1][0])

    def training_step(self, batch, batch_idx):
        past, future = batch
        naive = past.diff(dim=1).abs().mean(dim=1)
        error = (self(past) - future).abs().mean(dim=1)
        scaled = error / naive  # ORIGIN
        loss = scaled.mean()
        self.log("train_loss", loss, prog_bar=False)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)]


def train(watch):
    pl.seed_everything(31, verbose=False)
    series = torch.randn(144, 16).cumsum(dim=1)
    series[8 * 10 + 4] = 3.5
    loader = DataLoader(TensorDataset(series[:, :12], series[:, 12:]), batch_size=8)
    model = Forecaster()
    watch(model)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", accumulate_grad_batches=3, gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=tempfile.mkdtemp(),
    )  # fmt: skip
    trainer.fit(model, loader)

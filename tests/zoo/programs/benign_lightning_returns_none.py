"""Lightning: training_step returns None for a batch whose loss is not finite, which skips it, and a validation
metric is NaN in the sanity check. Early stopping watches the validation loss. Nothing bad reaches a gradient."""

import tempfile

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = None


class Regressor(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.mse_loss(self.net(x).squeeze(-1), y.log())
        if not torch.isfinite(loss):
            return None
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        output = self.net(x).squeeze(-1)
        self.log("val_r2", 1 - (output - y).pow(2).sum() / (y - y.mean()).pow(2).sum())
        self.log("val_loss", F.mse_loss(output, y))
        self.log("val_large", (output - y)[y > 100].abs().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def train(watch):
    pl.seed_everything(35, verbose=False)
    prices = torch.rand(64) + 0.1
    prices[[20, 21, 50]] = 0.0  # no price was given
    model = Regressor()
    watch(model)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[EarlyStopping("val_loss", patience=3)],
        default_root_dir=tempfile.mkdtemp(),
    )  # fmt: skip
    trainer.fit(
        model,
        DataLoader(TensorDataset(torch.randn(64, 6), prices), batch_size=8),
        DataLoader(TensorDataset(torch.randn(8, 6), torch.ones(8)), batch_size=8),
    )

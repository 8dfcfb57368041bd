"""Lightning with manual optimisation and two optimizers (Barlow Twins plus a probe). The last batch of the
epoch holds a single sample: the standard deviation over the batch is NaN."""

import tempfile

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": "forward",
    "op": "aten::std",
    "module": "standardise",
    "step": 6,
    "cause": ("empty_reduction", "division_by_zero"),
    "needs": ("lightning",),
}


class Standardise(nn.Module):
    def forward(self, z):
        return (z - z.mean(0)) / (z.std(0) + 1e-4)  # ORIGIN


class BarlowTwins(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.encoder = nn.Sequential(nn.Linear(20, 32), nn.ReLU(), nn.Linear(32, 8))
        self.standardise = Standardise()
        self.probe = nn.Linear(8, 3)

    def training_step(self, batch, batch_idx):
        x, y = batch
        encoder_opt, probe_opt = self.optimizers()
        a, b = (self.standardise(self.encoder(x + 0.1 * torch.randn_like(x))) for _ in range(2))
        correlation = a.T @ b / len(x)
        target = torch.eye(8)
        loss = ((correlation - target).pow(2) * torch.where(target == 1, 1.0, 0.05)).sum()
        encoder_opt.zero_grad()
        self.manual_backward(loss)
        encoder_opt.step()

        probe_loss = F.cross_entropy(self.probe(self.encoder(x).detach()), y)
        probe_opt.zero_grad()
        self.manual_backward(probe_loss)
        probe_opt.step()
        self.log_dict({"twins": loss, "probe": probe_loss})

    def configure_optimizers(self):
        return torch.optim.SGD(self.encoder.parameters(), lr=0.02), torch.optim.Adam(self.probe.parameters(), lr=1e-3)


def train(watch):
    pl.seed_everything(32, verbose=False)
    data = TensorDataset(torch.randn(97, 20), torch.randint(0, 3, (97,)))
    model = BarlowTwins()
    watch(model)
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tempfile.mkdtemp(),
    )  # fmt: skip
    trainer.fit(model, DataLoader(data, batch_size=16, shuffle=True))

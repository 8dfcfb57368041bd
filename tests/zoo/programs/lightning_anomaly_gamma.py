"""Lightning with detect_anomaly=True: a learned tone curve raises pixels to a power below one. A black pixel's
gradient is infinite, one operation later NaN, and autograd's own anomaly mode ends the run."""

import tempfile

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": "backward",
    "op": "aten::pow",
    "module": "tone",
    "step": 4,
    "cause": "pow_zero_grad",
    "raises": "RuntimeError",
    "needs": ("lightning",),
}


class Tone(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, image):
        exposed = image * self.gain
        return exposed**0.45  # ORIGIN


class Classifier(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.tone = Tone()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        )

    def training_step(self, batch, batch_idx):
        image, label = batch
        return F.cross_entropy(self.net(self.tone(image)), label)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


def train(watch):
    pl.seed_everything(34, verbose=False)
    images = torch.rand(48, 3, 10, 10) * 0.9 + 0.1
    images[27, :, 2:4, 2:4] = 0
    model = Classifier()
    watch(model)
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", detect_anomaly=True, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tempfile.mkdtemp(),
    )  # fmt: skip
    try:
        trainer.fit(model, DataLoader(TensorDataset(images, torch.randint(0, 4, (48,))), batch_size=6))
    finally:
        torch.autograd.set_detect_anomaly(False)

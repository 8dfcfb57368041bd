"""A Lightning callback standardises every gradient before the optimizer's step. The output bias, a single number, is
unfrozen later, and the standard deviation of one number is NaN.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

EXPECT = {
    "phase": ("loss", "backward", "optimizer"),
    "step": 4,
    "cause": ("empty_reduction", "division_by_zero"),
    "needs": ("lightning",),
}


def train(watch):
    import lightning as L

    class GradientStandardisation(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            for p in module.parameters():
                if p.grad is not None:
                    p.grad = (p.grad - p.grad.mean()) / (p.grad.std() + 1e-8)  # ORIGIN

    class UnfreezeBias(L.Callback):
        def on_train_epoch_start(self, trainer, module):
            module.net[2].bias.requires_grad_(trainer.current_epoch >= 1)

    class Regressor(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 12), nn.Tanh(), nn.Linear(12, 1))

        def training_step(self, batch, batch_idx):
            x, y = batch
            return F.mse_loss(self.net(x), y)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=1e-3)

    torch.manual_seed(38)
    module = Regressor()
    x = torch.randn(32, 4)
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[UnfreezeBias(), GradientStandardisation()],
    )  # fmt: skip
    watch(module, None)
    trainer.fit(module, DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8))

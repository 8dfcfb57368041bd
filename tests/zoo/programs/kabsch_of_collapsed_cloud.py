"""Point clouds are aligned by Kabsch before they are compared. The gradient of the SVD divides by differences of
squared singular values: a ligand of one atom, centred, has three that are zero.
"""

import torch
from torch import nn

EXPECT = {
    "phase": "backward",
    "op": ("aten::_linalg_svd", "aten::linalg_svd"),
    "module": None,
    "step": 4,
    "rows": [2],
    "cause": "degenerate_linalg",
    "raises": "_LinAlgError",
}


class Folder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.mix = nn.GRU(16, 16, batch_first=True)
        self.xyz = nn.Linear(16, 3)

    def forward(self, residues):
        h, _ = self.mix(self.embed(residues))
        return self.xyz(h)


def kabsch_rmsd(pred, true, mask):
    m = mask.unsqueeze(-1)
    p = (pred - (pred * m).sum(1, keepdim=True) / m.sum(1, keepdim=True)) * m
    q = (true - (true * m).sum(1, keepdim=True) / m.sum(1, keepdim=True)) * m
    u, _, vh = torch.linalg.svd(p.transpose(1, 2) @ q)  # ORIGIN
    rotation = u @ vh
    return ((p @ rotation - q).pow(2).sum(-1) * mask).sum(1) / mask.sum(1)


def train(watch):
    torch.manual_seed(8)
    model = Folder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=20)
    watch(model, optimizer)
    for step in range(7):
        lengths = torch.randint(5, 10, (5,))
        if step == 4:
            lengths[2] = 1
        mask = (torch.arange(10) < lengths.unsqueeze(1)).float()
        residues, true = torch.randint(0, 20, (5, 10)), torch.randn(5, 10, 3) * 4
        loss = kabsch_rmsd(model(residues), true, mask).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()

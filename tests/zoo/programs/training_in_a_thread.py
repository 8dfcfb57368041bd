"""Training runs in a worker thread, as an application with a window does it: a spectral feature takes the log of an
energy, which is 0 for a clip without sound.
"""

import threading

import torch
import torch.nn.functional as F
from torch import nn

EXPECT = {
    "phase": "forward",
    "op": "aten::log",
    "module": "energy",
    "step": 3,
    "rows": [1],
    "cause": "log_of_zero",
}


class LogEnergy(nn.Module):
    def forward(self, wave):
        frames = wave.unfold(-1, 16, 8)
        return torch.log(frames.square().sum(-1))  # ORIGIN


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.energy = LogEnergy()
        self.net = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, wave):
        return self.net(self.energy(wave)).squeeze(-1)


class Worker(threading.Thread):
    def __init__(self, model, optimizer, batches):
        super().__init__(daemon=True)
        self.model, self.optimizer, self.batches = model, optimizer, batches
        self.losses = []

    def run(self):
        for wave, label in self.batches:
            loss = F.binary_cross_entropy_with_logits(self.model(wave), label)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())


def train(watch):
    torch.manual_seed(39)
    batches = [(torch.randn(4, 64), torch.randint(0, 2, (4,)).float()) for _ in range(6)]
    batches[3][0][1] = 0
    model = Detector()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    watch(model, optimizer)
    worker = Worker(model, optimizer, batches)
    worker.start()
    worker.join(timeout=30)

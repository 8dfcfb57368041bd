"""DistributedDataParallel, one process, with the fp16 compression hook for gradients: a gradient above 65504 is finite
in float32 and infinite after the hook has compressed it.
"""

import tempfile

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import fp16_compress_hook
from torch.nn.parallel import DistributedDataParallel

EXPECT = {
    "phase": ("backward", "optimizer", "loss"),
    "step": 4,
    "cause": "overflow_low_precision",
}


def train(watch):
    torch.manual_seed(22)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            model = DistributedDataParallel(nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)))
            model.register_comm_hook(None, fp16_compress_hook)
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
            watch(model, optimizer)
            for step in range(7):
                x = torch.randn(16, 8)
                target = x.sum(1, keepdim=True)
                if step == 4:
                    target[3] = 3e6  # cents instead of millions
                loss = F.mse_loss(model(x), target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        finally:
            dist.destroy_process_group()

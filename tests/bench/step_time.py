"""What a training step costs with nanwatch attached: a ratio to the bare step, measured side by side.

Three copies of the same training run interleaved in one process, in random order: bare, bare again (the control) and
with nanwatch attached in its default configuration without MLflow. Process CPU time of the training thread, one thread.
The interval is a bootstrap of the ratio of means over rounds. Run by `make bench`; writes docs/overhead.md.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update({"OMP_NUM_THREADS": "1", "NANWATCH_MLFLOW": "0"})

import torch
import torch.nn.functional as F
from torch import nn

import nanwatch

torch.set_num_threads(1)

Make = Callable[[], tuple[nn.Module, torch.Tensor, torch.Tensor]]
"""Model, input, target."""
TRAININGS = ("MLP, 0.67 M parameters, batch 64", 40), ("GPT, 5 M parameters, 4 x 128", 3)
"""Name, and steps a round."""


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, 8, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


def mlp() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    net = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return net, torch.randn(64, 784), torch.randint(0, 10, (64,))


def gpt() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    net = nn.Sequential(nn.Embedding(500, 256), *(Block(256) for _ in range(6)), nn.Linear(256, 500))
    tokens = torch.randint(0, 500, (4, 128))
    return net, tokens, tokens


def training(make: Make) -> tuple[nn.Module, Callable[[], None]]:
    torch.manual_seed(0)
    net, x, y = make()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)

    def step() -> None:
        out = net(x)
        loss = F.cross_entropy(out.reshape(-1, out.shape[-1]), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return net, step


def measure(make: Make, rounds: int, steps: int) -> list[list[float]]:
    """Seconds of CPU for `steps` steps: a row a round, columns bare, control, nanwatch."""
    variants = [training(make) for _ in range(3)]
    for _, step in variants:
        step()
    rows = []
    for _ in range(rounds):
        row = [0.0, 0.0, 0.0]
        for i in random.sample(range(3), 3):
            net, step = variants[i]
            # Attached only while its own variant runs: the wrappers are the whole process's.
            watch = nanwatch.attach(net) if i == 2 else None
            for _ in range(3):
                step()
            began = time.thread_time()
            for _ in range(steps):
                step()
            row[i] = time.thread_time() - began
            if watch is not None:
                watch.flush(30)
                watch.detach()
        rows.append(row)
    return rows


def ratio(rows: list[list[float]], column: int) -> tuple[float, float, float]:
    """Ratio of means to the bare step, and its 95 % interval."""

    def of(sample: list[list[float]]) -> float:
        return statistics.fmean(r[column] for r in sample) / statistics.fmean(r[0] for r in sample)

    draws = sorted(of(random.choices(rows, k=len(rows))) for _ in range(2000))
    return of(rows), draws[50], draws[1949]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", type=Path)
    args = parser.parse_args()
    random.seed(0)
    lines = [
        "| training | bare step, ms of CPU | control (bare again) | with nanwatch |",
        "|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NANWATCH_DIR"] = folder
        for (name, steps), make in zip(TRAININGS, (mlp, gpt), strict=True):
            rows = measure(make, args.rounds, steps)
            bare = statistics.fmean(r[0] for r in rows) / steps * 1e3
            shown = ["{:.3f} ({:.3f} to {:.3f})".format(*ratio(rows, column)) for column in (1, 2)]
            lines.append(f"| {name} | {bare:.1f} | {shown[0]} | {shown[1]} |")
            print(lines[-1], flush=True)
    if args.write:
        args.write.write_text(PAGE.format(table="\n".join(lines), rounds=args.rounds))


PAGE = """# Overhead

Written by `make bench` (tests/bench/step_time.py). CPU time of the training thread as a ratio to the bare step; in
brackets the 95 % interval. Three copies of a training run interleaved in one process in random order, one thread,
statistics at every step, {rounds} rounds. A control that is not 1 says how much noise there is. GPU: not measured yet.

{table}

The cost is a few reads of gradients and parameters and some 0.4 ms of Python and small operations a step, so its share
falls as the step grows. The agent works in a process of its own at low priority.
"""

if __name__ == "__main__":
    main()

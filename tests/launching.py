"""Programs of several processes (gloo, CPU), started the ways people start them, and what they left behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from nanwatch.records import EndRecord
from nanwatch.spool.reader import SpoolReader

PRELUDE = """
import datetime, os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp, nanwatch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

torch.set_num_threads(1)

def init(rank, world, **kwargs):
    # A hang is an error after 20 seconds.
    dist.init_process_group("gloo", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=20), **kwargs)

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

def batch(rank, step, bad_on=(), bad_step=3):
    x = torch.rand(6, 4) + rank
    if step == bad_step and rank in bad_on:
        x[2] = 0
    return x

def bad_loss(model, x):
    # log(0) where a row of the batch is zero
    return torch.log(x.sum(1, keepdim=True) + 0 * model(x).sum()).mean().add(model(x).mean())

def loop(model, rank, bad_on, steps=6, loss=bad_loss, opt=None):
    opt = opt or torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        opt.zero_grad()
        loss(model, batch(rank, step, bad_on)).backward()
        opt.step()
"""

START = """
def work(rank, world, port):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    train(rank, world)
    dist.barrier()
    dist.destroy_process_group()

if __name__ == "__main__":
    how, world, port = sys.argv[1:]
    if how == "torchrun":
        train(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
        dist.barrier()
        dist.destroy_process_group()
    else:
        mp.start_processes(work, args=(int(world), port), nprocs=int(world), start_method=how)
"""


@dataclass
class Left:
    """What a launch left behind."""

    runs: list[Path]
    incidents: list[dict]
    stderr: str

    @property
    def farewells(self) -> dict[int, str]:
        """Rank -> why its process ended."""
        spools = [p for run in self.runs for p in (run / "spool").iterdir()]
        records = [r for spool in spools for r in SpoolReader(spool).read()]
        return {r.rank: r.reason for r in records if isinstance(r, EndRecord)}

    @property
    def incident(self) -> dict:
        assert len(self.incidents) == 1, [i["id"] for i in self.incidents]
        return self.incidents[0]


def launch(
    folder: Path, train: str, *, world: int = 2, how: str = "fork", timeout_s: float = 60, fails: bool = False
) -> Left:
    """Run `train(rank, world)`, given as source, in `world` processes; it has to end in time, and well or badly."""
    program = folder / "program.py"
    program.write_text(PRELUDE + textwrap.dedent(train) + START)
    port = str(_free_port())
    arguments = [str(program), how, str(world), port]
    if how == "torchrun":
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(world), "--master-port", port]
        arguments = [*launcher, *arguments]
    env = {
        **os.environ, "NANWATCH_DIR": str(folder / "runs"), "NANWATCH_MLFLOW": "0", "OMP_NUM_THREADS": "1",
        "NANWATCH_STRICT": "1",
    }  # fmt: skip
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=timeout_s, env=env)
    assert (done.returncode != 0) is fails, done.stderr[-4000:]
    runs = sorted((folder / "runs").iterdir())
    files = sorted((folder / "runs").glob("*/incidents/*/incident.json"))
    return Left(runs, [json.loads(f.read_text()) for f in files], done.stderr)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]

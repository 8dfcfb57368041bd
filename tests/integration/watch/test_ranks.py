"""Several processes under DistributedDataParallel (gloo): the rank whose batch was bad tells the story, once."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
    import os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp, nanwatch
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel

    def work(rank, world, port):
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        dist.init_process_group("gloo", rank=rank, world_size=world)
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model = DistributedDataParallel(net)
        watch = nanwatch.attach(model)
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        for step in range(8):
            x = torch.rand(6, 4) + rank
            if step == 5 and rank == world - 1:
                x[2] = 0
            opt.zero_grad()
            torch.log(x.sum(1, keepdim=True) + 0 * model(x).sum()).mean().add(model(x).mean()).backward()
            opt.step()
        assert watch.flush(40), watch.health()
        dist.barrier()
        dist.destroy_process_group()

    if __name__ == "__main__":
        mp.spawn(work, args=(int(sys.argv[1]), int(sys.argv[2])), nprocs=int(sys.argv[1]))
"""


def free_port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize("world", [2, 4])
def test_the_guilty_rank_is_named_and_nobody_hangs(tmp_path, world, monkeypatch):
    monkeypatch.setenv("NANWATCH_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("NANWATCH_MLFLOW", "0")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    done = subprocess.run(
        [sys.executable, str(program), str(world), str(free_port())], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (run,) = (tmp_path / "runs").iterdir()
    files = list(run.glob("incidents/*/incident.json"))
    assert len(files) == 1, [f.parent.name for f in files]
    incident = json.loads(Path(files[0]).read_text())
    assert (incident["rank"], incident["world_size"], incident["step"]) == (world - 1, world, 5)
    assert incident["origin"]["op"] == "aten::log"
    assert incident["origin"]["batch_rows"] == [2]
    assert incident["replay"]["verdict"] == "reproduced"
    assert len(list((run / "spool").iterdir())) == world

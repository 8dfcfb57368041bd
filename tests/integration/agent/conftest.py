"""The real agent process beside a real trainer process that writes a spool and is then killed, or ends, or detaches."""

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from nanwatch.rules.defaults import default_rules
from nanwatch.rules.load import dump_rules

TRAINER = """
import dataclasses, json, os, socket, sys, time
from pathlib import Path
import numpy as np
from nanwatch.records import *
from nanwatch.spool.writer import SpoolWriter

run_dir = Path(sys.argv[1])
run = RunRecord("run", 0, 1, os.getpid(), socket.gethostname(), time.time(), ({"name": "", "type": "Net"},),
                {"torch": "2"}, "train.py", {"mlflow": False, "history_steps": 50})

def step(n, loss=0.5, bad=False, **changes):
    stats = np.tile(np.float32([1, -1, 1, 0, 0, 0, 0, 0]), (2, 1))
    if bad:
        stats[:, 5] = 3
    fields = dict(rank=0, step=n, step_total=n, micro_steps=1, time_unix_s=time.time(), monotonic_s=time.monotonic(),
        step_time_s=0.01, loss=loss, loss_measured=True, lr=1e-3, loss_scale=1.0, grad_norm_clipped=float("nan"),
        overhead=0.001, bad_loss=bad, bad_grads=bad, bad_params=False, scaler_skipped=False, update_skipped=False,
        names_id=1, stats_KS=stats)
    return StepRecord(**{**fields, **changes})

def begin(rank=0):
    writer = SpoolWriter(str(run_dir / "spool" / f"r{rank}"), print, segment_bytes=20_000)
    writer.write(dataclasses.replace(run, rank=rank))
    writer.write(NamesRecord(1, ("a.weight", "a.bias"), (8, 2), ("a", "a")))
    return writer

def ack():
    try:
        return {int(k): tuple(v) for k, v in json.loads((run_dir / "ack.json").read_text())["ranks"].items()}
    except FileNotFoundError:
        return {}

def wait_ack(writer, rank=0):
    until = time.monotonic() + 20
    while ack().get(rank, (0, 0)) < writer.position:
        assert time.monotonic() < until, (ack(), writer.position)
        time.sleep(0.005)

def say(word):
    print(word, flush=True)
"""


class Run:
    def __init__(self, folder: Path):
        self.dir = folder / "run"
        self.dir.mkdir()
        self.started: list[subprocess.Popen] = []
        self.trainer: subprocess.Popen | None = None
        self.agent: subprocess.Popen | None = None
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("NANWATCH_", "MLFLOW_"))}
        self.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}

    def train(self, body: str) -> None:
        program = TRAINER + textwrap.dedent(body)
        self.trainer = subprocess.Popen(
            [sys.executable, "-c", program, str(self.dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.started.append(self.trainer)

    def prepare(self, settings: dict | None = None, rules: list | None = None) -> None:
        assert self.trainer is not None
        record = {
            "name": "run", "rank": 0, "world_size": 1, "pid": self.trainer.pid, "host": "h", "time_unix_s": time.time(),
            "models": [], "versions": {}, "script": "train.py", "settings": {"mlflow": False, **(settings or {})},
        }  # fmt: skip
        (self.dir / "run.json").write_text(json.dumps(record))
        dumped = dump_rules(default_rules()) if rules is None else rules
        (self.dir / "rules.json").write_text(json.dumps(dumped))

    def start_agent(self, start_time: float | None = None) -> subprocess.Popen:
        assert self.trainer is not None
        started = psutil.Process(self.trainer.pid).create_time() if start_time is None else start_time
        command = [sys.executable, "-P", "-m", "nanwatch.agent", str(self.dir), "--pid", str(self.trainer.pid)]
        self.agent = subprocess.Popen(
            [*command, "--start-time", repr(started)], env=self.environ, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.started.append(self.agent)
        return self.agent

    def hear(self, word: str) -> None:
        assert self.trainer is not None
        assert self.trainer.stdout is not None
        assert self.trainer.stdout.readline().strip() == word

    def agent_ends(self, code: int = 0) -> None:
        assert self.agent is not None
        output, _ = self.agent.communicate(timeout=40)
        assert (self.agent.returncode, output) == (code, ""), self.log()

    def log(self) -> str:
        return (self.dir / "agent.log").read_text()

    def json(self, name: str) -> dict:
        return json.loads((self.dir / name).read_text())

    def alerts(self) -> list[dict]:
        return [json.loads(line) for line in (self.dir / "alerts.jsonl").read_text().splitlines()]

    def steps(self) -> list[int]:
        table = pq.read_table(self.dir / "timeline.parquet").to_pandas()
        return table.loc[table.tensor == "", "step"].tolist()

    def wait_for(self, sentence: str) -> None:
        self.until(lambda: (self.dir / "agent.log").exists() and sentence in self.log())

    def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        give_up = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < give_up, self.log()
            time.sleep(0.02)

    def clean_up(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    yield run
    run.clean_up()

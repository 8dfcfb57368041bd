"""The real agent process beside a real trainer process that writes a spool and is then killed, or ends, or detaches."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
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
        self.trainer: subprocess.Popen | None = None
        self.agent: subprocess.Popen | None = None
        self.environ = {k: v for k, v in os.environ.items() if not k.startswith(("NANWATCH_", "MLFLOW_"))}
        self.environ |= {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}

    def train(self, body: str) -> None:
        program = TRAINER + textwrap.dedent(body)
        self.trainer = subprocess.Popen(
            [sys.executable, "-c", program, str(self.dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

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

    def clean_up(self) -> None:
        for process in (self.trainer, self.agent):
            if process is not None:
                if process.poll() is None:
                    process.kill()
                process.communicate()


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path)
    yield run
    run.clean_up()


def test_a_killed_trainer_loses_no_record_and_is_reported_as_killed(run):
    run.train("""
        writer = begin()
        for n in range(400):
            writer.write(step(n))
        wait_ack(writer)
        for n in range(400, 405):
            writer.write(step(n, float("nan"), bad=True))
        say("written")
        time.sleep(60)
    """)
    run.prepare()
    run.start_agent()
    run.hear("written")
    run.trainer.kill()
    run.trainer.wait()
    run.agent_ends()
    assert run.steps() == list(range(405))
    assert "the run is over: killed (KILLED) killed by SIGKILL" in run.log()
    assert not (run.dir / "timeline").exists()
    firing = [a for a in run.alerts() if a["state"] == "firing"]
    assert any(a["step"] == 400 for a in firing)
    assert run.alerts()[0]["schema"] == "nanwatch.alert/1"
    assert run.json("ledger.json")["counts"]["seen.step"] == 405
    assert list(run.json("ack.json")["ranks"]) == ["0"]


def test_a_torn_record_at_the_kill_costs_only_itself(run):
    run.train("""
        writer = begin()
        writer.write(step(0))
        os.write(writer._fd, b"\\x40\\0\\0\\0half of a frame")
        say("written")
        time.sleep(60)
    """)
    run.prepare()
    run.start_agent()
    run.hear("written")
    run.trainer.kill()
    run.agent_ends()
    assert run.steps() == [0]
    assert run.json("ledger.json")["counts"]["dropped.spool_damaged"] == 1


@pytest.mark.parametrize(
    ("last_words", "expected"),
    [
        ('writer.write(EndRecord(0, "finished", "", time.time()))', "finished (FINISHED)"),
        ('writer.write(EndRecord(0, "finished", "", time.time())); os._exit(3)', "exception (FAILED)"),
        ('writer.write(EndRecord(0, "exception", "ValueError: no", time.time())); os._exit(1)', "exception (FAILED)"),
        ("os._exit(0)", "finished (FINISHED)"),
        ("os.abort()", "exception (FAILED) killed by SIGABRT"),
        ("os.kill(os.getpid(), 15); time.sleep(9)", "killed (KILLED) killed by SIGTERM"),
    ],
)
def test_the_end_is_told_by_the_farewell_and_the_kernel(run, last_words, expected):
    run.train(f"""
        writer = begin()
        writer.write(step(0))
        say("written")
        sys.stdin.readline()
        {last_words}
    """)
    run.prepare()
    run.start_agent()
    run.hear("written")
    wait_for(run, "following the spool of rank 0")
    run.trainer.communicate("go\n", timeout=20)
    run.agent_ends()
    assert f"the run is over: {expected}" in run.log()


def test_a_detached_trainer_ends_the_agent_while_it_lives_on(run):
    run.train("""
        writer = begin()
        writer.write(step(0))
        writer.write(EndRecord(0, "detached", "", time.time()))
        say("written")
        time.sleep(60)
    """)
    run.prepare()
    run.start_agent()
    run.agent_ends()
    assert run.trainer.poll() is None
    assert "the run is over: detached (FINISHED)" in run.log()
    assert not (run.dir / "agent.lock").exists()


def test_a_trainer_gone_before_the_agent_started_has_vanished_and_its_spool_is_read(run):
    run.train('writer = begin(); writer.write(step(0)); say("written"); os._exit(7)')
    started = psutil.Process(run.trainer.pid).create_time()
    run.prepare()
    run.hear("written")
    run.trainer.wait()
    run.start_agent(started)
    run.agent_ends()
    assert run.steps() == [0]
    assert "vanished (FAILED) vanished, cause unknown" in run.log()


def test_a_rank_that_appears_later_is_followed_and_waited_for(run):
    run.train("""
        writer = begin()
        writer.write(step(0))
        wait_ack(writer)
        other = begin(rank=1)
        other.write(step(0, rank=1))
        wait_ack(other, 1)
        say("acknowledged")
    """)
    run.prepare()
    run.start_agent()
    run.hear("acknowledged")
    run.agent_ends()
    table = pq.read_table(run.dir / "timeline.parquet").to_pandas()
    assert sorted(table["rank"].unique()) == [0, 1]


def test_a_second_agent_refuses_and_a_killed_one_is_replaced_without_a_second_alert(run):
    run.train("""
        writer = begin()
        for n in range(50):
            writer.write(step(n))
        writer.write(step(50, float("nan"), bad=True))
        wait_ack(writer)
        say("acknowledged")
        sys.stdin.readline()
        writer.write(step(51))
        wait_ack(writer)
    """)
    run.prepare()
    first = run.start_agent()
    run.hear("acknowledged")
    before = run.alerts()
    assert before
    run.start_agent()
    run.agent_ends(code=3)
    assert "another agent serves this folder" in run.log()
    first.kill()
    first.communicate()
    run.start_agent()
    run.trainer.communicate("go\n", timeout=30)
    run.agent_ends()
    assert run.steps() == list(range(52))
    assert run.alerts()[: len(before)] == before
    keys = [(a["id"], a["state"], a["step"]) for a in run.alerts()]
    assert len(keys) == len(set(keys))


def test_sigterm_ends_the_agent_soon_and_the_next_one_goes_on(run):
    run.train("""
        writer = begin()
        writer.write(step(0))
        wait_ack(writer)
        say("acknowledged")
        sys.stdin.readline()
        writer.write(step(1))
        wait_ack(writer)
    """)
    run.prepare()
    agent = run.start_agent()
    run.hear("acknowledged")
    agent.send_signal(signal.SIGTERM)
    agent.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    agent.send_signal(signal.SIGTERM)
    run.agent_ends()
    assert "the run is over" not in run.log()
    run.start_agent()
    run.trainer.communicate("go\n", timeout=30)
    run.agent_ends()
    assert run.steps() == [0, 1]


def test_a_folder_without_run_json_is_refused_with_a_reason(run):
    run.train("time.sleep(30)")
    run.start_agent()
    run.agent_ends(code=3)
    assert "not a readable run.json" in run.log()


def test_everything_is_private(run):
    run.train('writer = begin(); writer.write(step(0)); wait_ack(writer); say("acknowledged")')
    run.prepare()
    run.start_agent()
    run.agent_ends()
    own = [p for p in run.dir.rglob("*") if p.name not in {"run.json", "rules.json"} and p.is_file()]
    assert len(own) >= 6
    assert {p.stat().st_mode & 0o077 for p in own} == {0}


def wait_for(run: Run, sentence: str) -> None:
    until = time.monotonic() + 20
    while not (run.dir / "agent.log").exists() or sentence not in run.log():
        assert time.monotonic() < until, run.log()
        time.sleep(0.02)

"""Programs that end because of a NaN, each in its own way: one whole bundle, and the ending is the program's own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from nanwatch.bundle.reader import Bundle

PRELUDE = """\
import os, sys, torch
import torch.nn.functional as F
from torch import nn
if os.environ["WATCH"] == "1":
    import nanwatch
    attach = nanwatch.attach
else:
    attach = lambda *args, **kwargs: None

torch.manual_seed(0)
net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
opt = torch.optim.SGD(net.parameters(), lr=0.01)
watch = attach(net)

def batch(step):
    x = torch.rand(6, 4)
    if step == 3:
        x[2] = 0
    return x

def loss_of(x):
    out = net(x)
    mass = x.sum(1, keepdim=True)
    share = out * 0 + x[:, :2] / mass  # ORIGIN
    return (share + out).mean()
"""

ENDINGS = {
    "raises_floating_point_error": """
        for step in range(6):
            opt.zero_grad()
            loss = loss_of(batch(step))
            if not torch.isfinite(loss):
                raise FloatingPointError(f"loss is {loss.item()}")
            loss.backward()
            opt.step()
        """,
    "exits_with_one": """
        for step in range(6):
            opt.zero_grad()
            loss = loss_of(batch(step))
            if loss.isnan():
                print("loss is NaN, giving up", file=sys.stderr)
                sys.exit(1)
            loss.backward()
            opt.step()
        """,
    "asserts": """
        for step in range(6):
            opt.zero_grad()
            loss = loss_of(batch(step))
            assert not torch.isnan(loss), "the loss is NaN"
            loss.backward()
            opt.step()
        """,
    "breaks_out_of_the_loop": """
        for step in range(6):
            opt.zero_grad()
            loss = loss_of(batch(step))
            if not torch.isfinite(loss).item():
                break
            loss.backward()
            opt.step()
        """,
    "distributions_refuse_nan": """
        def policy_loss(x):
            out = net(x)
            mass = x.sum(1, keepdim=True)
            loc = out * (mass / mass)  # ORIGIN
            return -torch.distributions.Normal(loc, 1.0).log_prob(torch.zeros(6, 2)).mean()

        for step in range(6):
            opt.zero_grad()
            policy_loss(batch(step)).backward()
            opt.step()
        """,
    "a_loss_of_its_own_raises": """
        class Margin(nn.Module):
            def forward(self, out):
                if torch.isnan(out).any():
                    raise RuntimeError("NaN in the scores")
                return out.mean()

        margin = Margin()
        for step in range(6):
            opt.zero_grad()
            x = batch(step)
            out = net(x)
            norm = x.norm(dim=1, keepdim=True)
            out = out * (norm / norm)  # ORIGIN
            margin(out).backward()
            opt.step()
        """,
    "detects_anomaly": """
        torch.autograd.set_detect_anomaly(True)
        for step in range(6):
            opt.zero_grad()
            out = net(batch(step)) * (0.0 if step == 3 else 1.0)
            length = out.pow(2).sum(1).sqrt()  # ORIGIN
            length.mean().backward()
            opt.step()
        """,
    "clipping_refuses_nan": """
        for step in range(6):
            opt.zero_grad()
            out = net(batch(step)) * (0.0 if step == 3 else 1.0)
            length = out.pow(2).sum(1).sqrt()  # ORIGIN
            length.mean().backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0, error_if_nonfinite=True)
            opt.step()
        """,
}
UNRELATED = """
    vocabulary = {"a": 0}
    for step in range(3):
        opt.zero_grad()
        loss_of(batch(0)).backward()
        opt.step()
    out = net(batch(0))
    vocabulary["b"]
    """
CAUGHT = """
    def cell():
        for step in range(6):
            opt.zero_grad()
            loss = loss_of(batch(step))
            if not torch.isfinite(loss):
                raise FloatingPointError("the loss is not finite")
            loss.backward()
            opt.step()

    failures = []
    try:
        cell()
    except Exception as e:
        failures.append(e)
    if watch is not None:
        watch.flush(30)
        print(len(watch.incidents), file=sys.stderr)
    """
PROGRAM = "program.py"


def run(folder: Path, body: str, *, watched: bool = True) -> subprocess.CompletedProcess[str]:
    program = folder / PROGRAM
    program.write_text(PRELUDE + textwrap.dedent(body))
    env = {
        **os.environ, "NANWATCH_DIR": str(folder / "runs"), "NANWATCH_MLFLOW": "0", "OMP_NUM_THREADS": "1",
        "WATCH": str(int(watched)),
    }  # fmt: skip
    command = [sys.executable, str(program)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, cwd=folder)


def whole_bundles(folder: Path) -> list[Bundle]:
    """The bundles of the only run, once its agent has ended."""
    (run_folder,) = (folder / "runs").iterdir()
    deadline = time.monotonic() + 60
    while "ends" not in (run_folder / "agent.log").read_text():
        assert time.monotonic() < deadline, (run_folder / "agent.log").read_text()
        time.sleep(0.05)
    bundles = [Bundle.open(p) for p in sorted((run_folder / "incidents").iterdir())]
    assert all(b.is_complete for b in bundles)
    return bundles


def own_words(stderr: str) -> list[str]:
    """What the program itself says: its lines, and the lines of a traceback that lead through its file.

    Frames of torch and nanwatch between them do not count: backward() runs inside of both.
    """
    kept, mine = [], False
    for line in stderr.splitlines():
        if line.startswith("  File "):
            mine = PROGRAM in line
        elif not line.startswith("    "):
            mine = not line.startswith(("nanwatch", "/", " "))
        if mine:
            kept.append(line)
    return kept


def marked(folder: Path) -> set[int]:
    lines = (folder / PROGRAM).read_text().splitlines()
    return {n for n, line in enumerate(lines, 1) if line.endswith("# ORIGIN")}


@pytest.mark.parametrize("name", ENDINGS)
def test_it_leaves_one_whole_bundle_and_ends_as_it_would(tmp_path, name):
    bare, watched = run(tmp_path, ENDINGS[name], watched=False), run(tmp_path, ENDINGS[name])
    assert watched.returncode == bare.returncode, watched.stderr
    assert watched.stdout == bare.stdout
    assert own_words(watched.stderr) == own_words(bare.stderr)
    assert "FutureWarning" not in watched.stderr, "looking for the exception touches nothing of others"
    (bundle,) = whole_bundles(tmp_path)
    incident = bundle.incident
    assert incident.step == 3
    assert incident.origin is not None, incident.replay
    at = [(Path(f.file).name, f.line) for f in incident.origin.stack]
    assert any(file == PROGRAM and line in marked(tmp_path) for file, line in at), at
    assert "at step 3" in (bundle.folder / "incident.md").read_text()


def test_an_exception_that_has_nothing_to_do_with_it_leaves_none(tmp_path):
    bare, watched = run(tmp_path, UNRELATED, watched=False), run(tmp_path, UNRELATED)
    assert (bare.returncode, watched.returncode) == (1, 1)
    assert own_words(watched.stderr) == own_words(bare.stderr)
    assert own_words(bare.stderr)[-1] == "KeyError: 'b'"
    assert whole_bundles(tmp_path) == []


def test_an_exception_that_somebody_caught_is_examined_at_the_next_flush(tmp_path):
    watched = run(tmp_path, CAUGHT)
    assert watched.returncode == 0, watched.stderr
    assert watched.stderr.splitlines()[-1] == "1"
    (bundle,) = whole_bundles(tmp_path)
    assert bundle.incident.origin.line in marked(tmp_path)
    assert not bundle.incident.seen.backward

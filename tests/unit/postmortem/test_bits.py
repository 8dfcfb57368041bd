"""A replay is the step itself: the loss and every gradient are the same bits, here and from the files of a bundle."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from factory import Mixed
from watching import watching

from nanwatch.postmortem.replay import plan, run


def losses(net, *, autocast, micro_steps):
    """Batches through the model and the loss code, as a training does it."""
    for _ in range(micro_steps):
        x, y = torch.randn(6, 3, 8, 8), torch.randint(0, 4, (6,))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            out = net(x)
            noise = torch.rand_like(out) * 0.1
        yield F.cross_entropy((out + noise).float(), y) + 0.01 * net.head.weight.pow(2).sum()


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("micro_steps", [1, 3])
def test_loss_and_gradients_with_dropout_batch_norm_and_autocast(tmp_path, autocast, micro_steps):
    torch.manual_seed(0)
    net = Mixed()
    opt = torch.optim.AdamW(net.parameters(), lr=0.01)
    with watching(net, tmp_path) as seen:
        for _ in range(4):
            opt.zero_grad()
            before = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
            for loss in losses(net, autocast=autocast, micro_steps=micro_steps):
                before = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
                loss.backward()
            statistics = net.norm.running_var.clone()
            with seen.probes.paused():
                made = plan(seen.probes.recorder, [loss])
                outcome = run(made, seen.probes.watched.parameters, modules=dict(seen.probes.watched.named_modules()))
            assert outcome.loss == loss.item()
            for p, was, gradient in zip(net.parameters(), before, outcome.gradients, strict=True):
                assert torch.equal(p.grad, gradient if was is None else was + gradient)
            assert torch.equal(net.norm.running_var, statistics)
            opt.step()


ELSEWHERE = """
import sys
from pathlib import Path
from nanwatch.postmortem.again import replay_bundle
again = replay_bundle(Path(sys.argv[1]), "factory:make_mixed")
print(again.verdict, again.loss.hex(), again.differences)
"""


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_the_bundle_alone_gives_the_same_loss_in_another_process(tmp_path, autocast):
    torch.manual_seed(0)
    net = Mixed()
    opt = torch.optim.AdamW(net.parameters(), lr=0.01)
    with watching(net, tmp_path) as seen:
        for i in range(4):
            opt.zero_grad()
            if i == 2:
                seen.probes.tripwire.capture_reason = "to compare"
            for loss in losses(net, autocast=autocast, micro_steps=1):
                recorded = loss.item() if i == 2 else None
                loss.backward()
                if i == 2:
                    value = recorded
            opt.step()
    folder = tmp_path / "incidents" / seen.incident.id
    assert json.loads((folder / "incident.json").read_text())["loss"] == value
    assert seen.incident.replay.bitwise
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder)], cwd=here, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.split()[:2] == ["reproduced", value.hex()], done.stdout + done.stderr

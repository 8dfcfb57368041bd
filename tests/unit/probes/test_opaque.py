"""Compiled functions and the program's own autograd.Functions: seen from outside, replayed from inside."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn
from watching import watching

PROGRAM = """
    import sys, tempfile, torch
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from torch import nn
    from torch._dynamo.utils import counters
    from watching import watching

    class Bug(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, gate):
            ctx.save_for_backward(gate)
            return x * 1.0

        @staticmethod
        def backward(ctx, g):
            return g / ctx.saved_tensors[0], None

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.d, self.b = nn.Linear(4, 8), nn.Dropout(0.1), nn.Sequential(nn.ReLU(), nn.Linear(8, 2))

        def forward(self, x):
            return self.b(self.d(self.a(torch.log(x.sum(1, keepdim=True)) * x)))

    def loss_with_log(out, x):
        return (torch.log(x.sum(1)) + out.pow(2).sum(1)).mean()

    def compiled(net):
        return torch.compile(net, backend="aot_eager")

    def compiled_in_place(net):
        net.compile(backend="aot_eager")
        return net

    def same(net):
        return net

    step = torch.compile(lambda net, x: net(x).sum(), backend="aot_eager")
    bug = torch.compile(lambda net, x: Bug.apply(net(x + 1), x.sum(1, keepdim=True)).sum(), backend="aot_eager")
    loss = torch.compile(loss_with_log, backend="aot_eager")
    in_model = ("forward", "aten::log", "")
    WAYS = {
        "compiled after attach": (same, compiled, lambda net, x: net(x).sum(), in_model),
        "compiled before attach": (compiled, same, lambda net, x: net(x).sum(), in_model),
        "in place after attach": (same, compiled_in_place, lambda net, x: net(x).sum(), in_model),
        "in place before attach": (compiled_in_place, same, lambda net, x: net(x).sum(), in_model),
        "a function with the model": (same, same, step, in_model),
        "the loss": (same, same, lambda net, x: loss(net(x + 1), x), ("loss", "aten::log", None)),
        "a function with model, loss and a faulty backward": (same, same, bug, ("backward", "aten::div", None)),
    }
    for way, (before, after, forward, origin) in WAYS.items():
        torch._dynamo.reset()
        counters.clear()
        torch.manual_seed(0)
        net = Net()
        opt = torch.optim.SGD(net.parameters(), lr=1e-4)
        attached = before(net)
        with watching(attached, Path(tempfile.mkdtemp())) as seen:
            called = after(attached)
            for i in range(6):
                x = torch.rand(3, 4)
                if i == 3:
                    x[1] = 0
                opt.zero_grad()
                forward(called, x).backward()
                opt.step()
        graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
        assert (graphs, breaks) == (1, 0), (way, graphs, breaks)
        found = seen.incident
        assert (found.step, found.replay.verdict) == (3, "reproduced"), (way, found.replay)
        assert (found.origin.phase, found.origin.op, found.origin.module) == origin, (way, found.origin)
        assert found.origin.batch_rows == (1,), way
"""


def test_every_way_to_compile_is_located_with_one_graph_and_no_break(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(PROGRAM))
    tests = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, str(file), tests], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-3000:]


class Reciprocal(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        y = 1 / x
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        (y,) = ctx.saved_tensors
        return -g * y * y


@pytest.mark.parametrize("where", ["model", "loss"])
def test_a_function_of_the_programs_own_that_fails_forward(tmp_path, where):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            return Reciprocal.apply(self.fc(x) * x.sign()) if where == "model" else self.fc(x) * x.sign()

    torch.manual_seed(0)
    net = Net()
    with watching(net, tmp_path) as seen:
        x = torch.rand(6, 4)
        x[2] = 0
        out = net(x)
        (Reciprocal.apply(out) if where == "loss" else out).sum().backward()
    origin = seen.incident.origin
    assert seen.incident.replay.bitwise
    assert (origin.op, origin.code, origin.batch_rows) == ("aten::reciprocal", "y = 1 / x", (2,))
    assert (origin.phase, origin.module) == (("forward", "") if where == "model" else ("loss", None))


def test_the_patches_are_given_back(tmp_path):
    before = torch.autograd.Function.__dict__["apply"], torch.compile
    with watching(nn.Linear(2, 2), tmp_path):
        assert torch.autograd.Function.__dict__["apply"] is not before[0]
    assert (torch.autograd.Function.__dict__["apply"], torch.compile) == before

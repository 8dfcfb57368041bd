"""A guest in somebody's program: copies, pickles, threads, phases, many calls, other people's modes."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from watching import watching


def make():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return net, torch.optim.SGD(net.parameters(), lr=0.1)


def step(net, opt, *, bad=False):
    x = torch.rand(6, 4)
    if bad:
        x[2] = float("nan")
    opt.zero_grad()
    F.cross_entropy(net(x), torch.zeros(6, dtype=torch.long)).backward()
    opt.step()


def test_copies_and_pickles_of_the_model_carry_nothing_of_ours(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        step(net, opt)
        twin = copy.deepcopy(net)
        file = io.BytesIO()
        torch.save(net, file)
        assert b"nanwatch" not in file.getvalue()
        loaded = pickle.loads(pickle.dumps(net))
        for other in (twin, loaded):
            assert torch.equal(other(torch.ones(1, 4)), net(torch.ones(1, 4)))
        step(twin, torch.optim.SGD(twin.parameters(), lr=0.1))
        step(net, opt, bad=True)
    assert seen.incident.origin.phase == "data"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_attached_model_can_be_scripted_and_traced(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        torch.jit.script(net)
        torch.jit.trace(net, torch.ones(1, 4))
        step(net, opt, bad=True)
    assert seen.incident.origin.phase == "data"


def test_a_second_optimizer_that_takes_over_continues_the_count(tmp_path):
    net, first = make()
    with watching(net, tmp_path) as seen:
        for _ in range(10):
            step(net, first)
        second = torch.optim.Adam(net.parameters())
        for i in range(10):
            step(net, second, bad=i == 3)
    assert [r.step for r in seen.steps] == list(range(20))
    assert seen.incident.step == 13


def test_a_step_that_raised_does_not_stop_the_count(tmp_path):
    net, _ = make()
    opt = torch.optim.LBFGS(net.parameters(), max_iter=2)
    calls = []

    def closure():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        opt.zero_grad()
        loss = net(torch.ones(2, 4)).pow(2).mean()
        loss.backward()
        return loss

    with watching(net, tmp_path) as seen:
        for _ in range(6):
            try:
                opt.step(closure)
            except KeyboardInterrupt:
                continue
    assert [r.step for r in seen.steps] == [0, 1, 2, 3, 4]


def test_gradients_that_nobody_touches_any_more_do_not_keep_an_incident_open(tmp_path):
    old, new = nn.Linear(4, 2), nn.Linear(4, 2)
    old_opt, new_opt = torch.optim.SGD(old.parameters(), lr=0.1), torch.optim.SGD(new.parameters(), lr=0.1)
    with watching({"old": old, "new": new}, tmp_path) as seen:
        step(old, old_opt, bad=True)
        for i in range(40):
            step(new, new_opt, bad=i == 30)
    assert [i.origin.batch_rows for i in seen.incidents] == [(2,), (2,)]


def test_a_second_loss_of_the_same_forward_survives_the_replay(tmp_path):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
            self.register_buffer("mask", torch.ones(4))

        def forward(self, x):
            h = self.norm(self.fc(x)) * self.mask
            return h, h.pow(2)

    net = Masked()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    with watching(net, tmp_path) as seen:
        for i in range(4):
            a, b = net(torch.rand(6, 4))
            opt.zero_grad()
            (a.mean() / (i != 2)).backward(retain_graph=True)
            b.mean().backward()
            opt.step()
    assert seen.incident.origin.op == "aten::div"


def test_the_replay_puts_back_what_a_module_keeps_for_itself(tmp_path):
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.calls, self.aux = nn.Linear(4, 2), 0, []
            self.generator = torch.Generator().manual_seed(0)

        def forward(self, x):
            self.calls += 1
            self.aux.append(self.calls)
            return self.fc(x) * torch.rand(1, generator=self.generator)

    net = Keeps()
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with watching(net, tmp_path) as seen:
        for i in range(4):
            step(net, opt, bad=i == 2)
    assert seen.incidents
    assert (net.calls, net.aux) == (4, [1, 2, 3, 4])
    twin = torch.Generator().manual_seed(0)
    torch.rand(4, generator=twin)
    assert torch.equal(net.generator.get_state(), twin.get_state())


def test_training_in_a_thread_of_its_own(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        step(net, opt)

        def work():
            for i in range(6):
                step(net, opt, bad=i == 4)
            net(torch.rand(2, 4)).sum()  # leaves the recorder armed when the thread ends

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [r.step for r in seen.steps] == list(range(7))
    assert seen.incident.step == 5


def test_a_background_evaluation_is_not_the_training(tmp_path):
    net, opt = make()
    stop = threading.Event()

    def evaluate():
        while not stop.is_set():
            with torch.no_grad():
                net(torch.full((2, 4), float("nan")))

    with watching(net, tmp_path) as seen:
        step(net, opt)
        thread = threading.Thread(target=evaluate)
        thread.start()
        for i in range(30):
            step(net, opt, bad=i == 20)
        stop.set()
        thread.join()
    assert torch._C._len_torch_function_stack() == 0
    assert seen.incident.step == 21
    assert seen.incident.origin.batch_rows == (2,)


def test_many_calls_in_one_step_are_replayed(tmp_path):
    cell = nn.GRUCell(3, 3)
    opt = torch.optim.SGD(cell.parameters(), lr=0.01)
    with watching(cell, tmp_path) as seen:
        for i in range(2):
            x, h = torch.rand(60, 2, 3), torch.zeros(2, 3)
            x[40] = float("nan") if i else 0.1
            for t in range(60):
                h = cell(x[t], h)
            opt.zero_grad()
            h.sum().backward()
            opt.step()
    assert (seen.incident.step, seen.incident.origin.phase) == (1, "data")


@pytest.mark.parametrize("reentrant", [True, False])
def test_the_whole_model_checkpointed(tmp_path, reentrant):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        for i in range(4):
            x = torch.rand(6, 4, requires_grad=True)
            loss = checkpoint(net, x, use_reentrant=reentrant).sum() / (i != 2)
            opt.zero_grad()
            loss.backward()
            opt.step()
        step(net, opt)
    assert seen.incident.step == 2
    assert seen.incident.origin.op == "aten::div"


def test_packed_sequences_conjugates_and_mixed_types(tmp_path):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 4)
            self.c = nn.Parameter(torch.randn(4, dtype=torch.complex64))
            self.d = nn.Parameter(torch.ones(4, dtype=torch.float64))
            self.b = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))

        def forward(self, packed):
            _, h = self.rnn(packed)
            return (
                (h[-1].to(torch.complex64) @ self.c.conj()).abs() + (h[-1] * self.d).sum(1) + (h[-1] * self.b).sum(1)
            ).sum()

    net = Mixed()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    with watching(net, tmp_path) as seen:
        for i in range(4):
            x = torch.rand(5, 2, 3)
            if i == 2:
                x[1, 1] = float("nan")
            packed = nn.utils.rnn.pack_padded_sequence(x, [5, 5])
            opt.zero_grad()
            net(packed).backward()
            opt.step()
    assert (seen.incident.step, seen.incident.origin.phase) == (2, "data")
    assert seen.incident.replay.verdict == "reproduced"


def test_a_gradient_penalty_in_the_loss(tmp_path):
    critic = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    opt = torch.optim.SGD(critic.parameters(), lr=0.01)
    with watching(critic, tmp_path) as seen:
        for i in range(4):
            x = torch.rand(5, 3)
            x.requires_grad_()
            out = critic(x) * (i != 2)
            (g,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            loss = (g.pow(2).sum(1).sqrt() - 1).pow(2).mean()
            opt.zero_grad()
            loss.backward()
            opt.step()
    assert (seen.incident.origin.op, seen.incident.origin.phase) == ("aten::sqrt", "backward")
    assert seen.incident.cause.label == "sqrt_zero_grad"


def test_an_in_place_change_through_a_view_is_replayed(tmp_path):
    net = nn.Linear(4, 4)
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    with watching(net, tmp_path) as seen:
        for i in range(3):
            out = net(torch.rand(5, 4)).abs() * 1.0
            out[:, 2:].mul_(1e30 if i == 2 else 1.0).exp_()
            opt.zero_grad()
            out.mean().backward()
            opt.step()
    assert (seen.incident.origin.op, seen.incident.cause.label) == ("aten::exp_", "overflow_exp")


def test_what_is_too_large_to_copy_is_told_to_have_changed(tmp_path):
    net, opt = make()
    big = torch.zeros(5_000_000)
    with watching(net, tmp_path) as seen:
        out = net(torch.rand(2, 4))
        big[0] = 1.0
        (out.sum() * big[0] / 0).backward()
        opt.step()
    assert any("changed in place" in s for s in seen.incident.scope)


def test_a_users_dispatch_mode_does_not_see_our_work(tmp_path):
    class Counts(TorchDispatchMode):
        n = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Counts.n += 1
            return func(*args, **(kwargs or {}))

    def count():
        Counts.n = 0
        torch.manual_seed(0)
        net, opt = make()
        with Counts():
            for i in range(4):
                step(net, opt, bad=i == 2)
        return Counts.n

    bare = count()
    Counts.n = 0
    torch.manual_seed(0)
    net, opt = make()
    with watching(net, tmp_path) as seen, Counts():
        for i in range(4):
            step(net, opt, bad=i == 2)
    assert seen.incidents
    # The view that `detach` makes of each tensor we look at is all that is left.
    assert Counts.n < 2 * bare


def test_the_fast_path_of_a_teacher_in_the_loss_is_taken(tmp_path):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    teacher = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).eval().requires_grad_(False)
    x = torch.rand(2, 5, 8)
    with torch.no_grad():
        alone = teacher(x)
    net = nn.Linear(8, 8)
    with watching(net, tmp_path):
        out = net(x)
        with torch.no_grad():
            beside = teacher(x)
        (out - beside).pow(2).mean().backward()
    assert torch.equal(alone, beside)


def test_compiled_models_get_no_break_and_no_recompilation(tmp_path):
    program = """
        import torch, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from torch import nn
        from torch._dynamo.utils import counters
        from watching import watching

        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)
            def forward(self, x):
                return self.b(torch.log(self.a(x).abs() * x.sum(1, keepdim=True)))

        def train(call, net, bad):
            opt = torch.optim.SGD(net.parameters(), lr=1e-3)
            for i in range(8):
                x = torch.rand(5, 4) + 0.1
                if i == bad:
                    x[2] = 0
                opt.zero_grad()
                call(x).pow(2).mean().backward()
                opt.step()

        for way in ("bare", "attach first", "compile first", "in place"):
            torch._dynamo.reset()
            counters.clear()
            net = Net()
            if way == "bare":
                train(torch.compile(net, backend="aot_eager"), net, None)
            elif way == "attach first":
                with watching(net, Path(sys.argv[2]) / "a") as seen:
                    train(torch.compile(net, backend="aot_eager"), net, 6)
            elif way == "compile first":
                compiled = torch.compile(net, backend="aot_eager")
                with watching(compiled, Path(sys.argv[2]) / "b") as seen:
                    train(compiled, net, 6)
            else:
                net.compile(backend="aot_eager")
                with watching(net, Path(sys.argv[2]) / "c") as seen:
                    train(net, net, 6)
            graphs, breaks = counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())
            assert (graphs, breaks) == (1, 0), (way, graphs, breaks)
            if way != "bare":
                assert seen.incident.origin.op == "aten::log", way
                assert seen.incident.replay.verdict == "reproduced", way
    """
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(program))
    here = str(__import__("pathlib").Path(__file__).parents[2])
    done = subprocess.run([sys.executable, str(file), here, str(tmp_path)], capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.filterwarnings("ignore:Anomaly Detection|Error detected in")
@pytest.mark.parametrize("policy", ["record", "stop"])
def test_the_programs_own_anomaly_mode_raises_its_own_error_and_the_story_is_told(tmp_path, policy):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            h = self.fc(x) * x.sum(1, keepdim=True).sign()
            return h * h.pow(2).sum(1, keepdim=True).sqrt()

    net = Gated()
    opt = torch.optim.SGD(net.parameters(), lr=0.01)
    with watching(net, tmp_path, policy=policy) as seen, torch.autograd.detect_anomaly():
        for i in range(3):
            x = torch.rand(5, 4)
            x[3] *= i != 2
            loss = net(x).mean()
            opt.zero_grad()
            if i == 2:
                with pytest.raises(RuntimeError, match="returned nan values"):
                    loss.backward()
            else:
                loss.backward()
                opt.step()
    assert (seen.incident.step, seen.incident.seen.where) == (2, "grad")
    assert (seen.incident.origin.op, seen.incident.origin.phase) == ("aten::sqrt", "backward")
    assert seen.incident.replay.verdict == "reproduced"

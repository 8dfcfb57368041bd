"""A step that does not repeat: the training itself is traced for the next steps, and changes by nothing."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from watching import watching

from nanwatch.postmortem import live, live_tracer
from nanwatch.records import NoteRecord


class Counting(nn.Module):
    """Divides by zero at the calls in `bad`, which a replay cannot know: it counts outside of the module."""

    def __init__(self, bad):
        super().__init__()
        self.fc, self.bad = nn.Linear(4, 1), bad

    def forward(self, x):
        calls["forward"] += 1
        return self.fc(x) / (calls["forward"] not in self.bad)


class Net(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.first, self.inner = nn.Linear(4, 4), inner

    def forward(self, x):
        return self.inner(torch.relu(self.first(x)))


calls = {}


@pytest.fixture(autouse=True)
def nothing_left(monkeypatch):
    calls.clear()
    calls["forward"] = 0
    yield
    assert torch._C._len_torch_dispatch_stack() == 0


def step(net, opt, rows=6, loss=lambda out: out.pow(2).mean()):
    opt.zero_grad()
    loss(net(torch.rand(rows, 4) + 0.5)).backward()
    opt.step()


def train(net, tmp_path, steps, *, policy="skip", one_step=step):
    torch.manual_seed(0)
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)
    with watching(net, tmp_path, policy=policy) as seen:
        for _ in range(steps):
            one_step(net, opt)
    return seen


def notes(seen):
    return [r.text for r in seen.records if isinstance(r, NoteRecord) and r.reason == "live_trace_ended"]


def line_of(function, code):
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if code in line)


def hooks_of(net):
    return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()]


# the first two forwards after a bad one are its replays: calls 3 (bad), 4 and 5 (replays), 6 (bad again)
TWICE = {3, 6}


def test_the_second_time_the_origin_is_read_from_the_training_itself(tmp_path):
    net = Net(Counting(TWICE))
    seen = train(net, tmp_path, 8)
    first, second = seen.incidents
    assert (first.replay.verdict, first.replay.attempts, first.origin) == ("not_reproduced", 2, None)
    assert "another result when it was run again" in first.cause.why[0]
    assert "traced while they run" in first.scope[-1]
    o = second.origin
    assert second.replay.verdict == "not_reproduced"
    assert (o.phase, o.op, o.value, o.module, o.module_type) == ("forward", "aten::div", "inf", "inner", "Counting")
    assert (o.file, o.line) == (__file__, line_of(Counting.forward, "self.fc(x) /"))
    assert [f.function for f in o.stack][:2] == ["forward", "forward"]
    assert {"step", "train"} <= {f.function for f in o.stack}
    assert second.cause.label == "division_by_zero"
    assert second.path[0].op == "aten::div"
    assert f"the step does not repeat; the same onset as {first.id}" in second.scope[-1]
    assert seen.probes.live.armed is None
    assert (first.step, second.step) == (2, 3)
    assert notes(seen) == []


def unlucky():
    """Below 0.2 at the third and the sixth draw: the draws between them are those of two replays."""
    return torch.Generator().manual_seed(502)


def test_a_generator_of_its_own(tmp_path):
    generator = unlucky()

    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 1)

        def forward(self, x):
            kept = torch.rand((), generator=generator) >= 0.2
            return torch.log(self.fc(x).abs() * kept)

    _, second = train(Noisy(), tmp_path, 5).incidents
    assert (second.replay.verdict, second.origin.op, second.origin.module) == ("not_reproduced", "aten::log", "")
    assert second.cause.label == "log_of_zero"


def test_code_between_model_and_backward(tmp_path):
    generator = unlucky()

    def one_step(net, opt):
        opt.zero_grad()
        out = net(torch.rand(6, 4)).abs().mean()
        torch.log(out * (torch.rand((), generator=generator) >= 0.2)).backward()
        opt.step()

    _, second = train(nn.Linear(4, 1), tmp_path, 5, one_step=one_step).incidents
    assert (second.origin.phase, second.origin.op, second.origin.module) == ("loss", "aten::log", None)
    assert (second.origin.function, second.origin.line) == ("one_step", line_of(one_step, "torch.log"))


def test_gradients_in_backward(tmp_path):
    class Rooted(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 1)

        def forward(self, x):
            calls["forward"] += 1
            h = self.fc(x).abs() * (calls["forward"] not in TWICE)
            return torch.sqrt(h)

    net = Net(Rooted())
    seen = train(net, tmp_path, 6)
    _, second = seen.incidents
    assert second.seen.where == "grad"
    assert (second.origin.phase, second.origin.op, second.origin.module) == ("backward", "aten::sqrt", "inner")
    assert second.origin.line == line_of(Rooted.forward, "torch.sqrt")
    assert second.cause.label == "sqrt_zero_grad"


class Last(nn.Module):
    def __init__(self, rnn):
        super().__init__()
        self.rnn = rnn

    def forward(self, x):
        return self.rnn(x)[0][:, -1]


class Product(nn.Module):
    def forward(self, x):
        return torch.cumprod(x, 1).std(1) + torch.logsumexp(x, 1) + x.prod(1)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.last = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.2), nn.Tanh()), nn.Linear(4, 1)

    def forward(self, x):
        return self.last(checkpoint(self.block, x, use_reentrant=False))


MODELS = {
    "convolution": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 2), nn.BatchNorm1d(3), nn.GELU(), nn.Flatten(), nn.Linear(9, 1)
    ),
    "attention": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 2)),
        nn.TransformerEncoderLayer(2, 1, 8, 0.2, batch_first=True),
        nn.Flatten(),
        nn.Linear(4, 1),
    ),
    "recurrent": lambda: nn.Sequential(nn.Unflatten(1, (2, 2)), Last(nn.LSTM(2, 3, batch_first=True)), nn.Linear(3, 1)),
    "products": lambda: nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.3), Product(), nn.Softplus()),
    "checkpointed": Checkpointed,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("autocast", [False, True])
def test_the_training_is_the_same_to_the_bit(tmp_path, name, autocast, monkeypatch):
    monkeypatch.setattr(live, "BACKWARDS", 5)
    traced = []

    def run(watch):
        torch.manual_seed(0)
        net = MODELS[name]()
        opt = torch.optim.AdamW(net.parameters(), lr=1e-2)

        def loop(seen):
            if seen is not None:
                live.LiveTrace(seen.probes).arm()
            for _ in range(5):
                for _ in range(2):
                    x = torch.rand(6, 4) + 0.5
                    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                        out = net(x)
                    loss = out.float().pow(2).mean()
                    traced.append(torch._C._len_torch_dispatch_stack())
                    loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                opt.step()
                opt.zero_grad()
            if seen is not None:
                assert notes(seen) == []

        if watch:
            with watching(net, tmp_path) as seen:
                loop(seen)
        else:
            loop(None)
        return [*net.state_dict().values(), torch.rand(1)]

    with_trace, without = run(watch=True), run(watch=False)
    assert traced == [1] * 5 + [0] * 15
    for a, b in zip(with_trace, without, strict=True):
        assert torch.equal(a, b)


# --- whatever the program does meanwhile ---


def test_nothing_is_armed_after_three_backwards(tmp_path):
    net = Net(Counting({3}))
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)
    on_stack, unarmed = [], None

    def loss(out):
        on_stack.append(torch._C._len_torch_dispatch_stack())
        return out.pow(2).mean()

    with watching(net, tmp_path, policy="skip") as seen:
        for i in range(7):
            unarmed = hooks_of(net) if i == 2 else unarmed
            step(net, opt, loss=loss)
            assert (seen.probes.live.armed is not None) == (2 <= i < 5)
        assert hooks_of(net) == unarmed
    assert on_stack == [0, 0, 0, 1, 1, 1, 0]
    assert len(seen.incidents) == 1
    assert notes(seen) == []


def test_parameters_that_are_not_finite_any_more(tmp_path):
    net = Net(Counting({3, 6}))
    seen = train(net, tmp_path, 6, policy="record")
    assert [i.origin is None for i in seen.incidents] == [True]
    assert seen.probes.live.armed is None
    assert notes(seen) == [
        "the steps are no longer traced: parameters are not finite any more (first.bias, first.weight, inner.fc.bias)"
    ]


def test_an_exception_in_forward_while_armed(tmp_path):
    class Breaks(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.broken = nn.Linear(4, 1), False

        def forward(self, x):
            h = self.fc(x)
            if self.broken:
                raise ValueError("the program's own")
            return h

    net = Net(Breaks())
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)
    with watching(net, tmp_path) as seen:
        step(net, opt)
        live.LiveTrace(seen.probes).arm()
        net.inner.broken = True
        with pytest.raises(ValueError, match="the program's own"):
            step(net, opt)
        assert torch._C._len_torch_dispatch_stack() == 0
        net.inner.broken = False
        for _ in range(3):
            step(net, opt)
        assert seen.probes.live.armed is None
    assert notes(seen) == []


def test_an_exception_after_the_forward_then_an_evaluation(tmp_path):
    net = Net(nn.Linear(4, 1))
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)

    def broken(out):
        raise ValueError("the program's own")

    with watching(net, tmp_path) as seen:
        step(net, opt)
        live.LiveTrace(seen.probes).arm()
        with pytest.raises(ValueError, match="the program's own"):
            step(net, opt, loss=broken)
        with torch.no_grad():
            net(torch.rand(2, 4))
        for _ in range(4):
            step(net, opt)
        assert torch._C._len_torch_dispatch_stack() == 0
        assert seen.probes.live.armed is None


def test_detach_while_armed(tmp_path):
    net = Net(nn.Linear(4, 1))
    before = hooks_of(net)
    with watching(net, tmp_path) as seen:
        live.LiveTrace(seen.probes).arm()
        out = net(torch.rand(6, 4))
        assert torch._C._len_torch_dispatch_stack() == 1
        seen.probes.remove("")
        assert torch._C._len_torch_dispatch_stack() == 0
        out.mean().backward()
        assert hooks_of(net) == before
        assert seen.probes.live.armed is None


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("warm", [True, False])
def test_a_compiled_model(tmp_path, backend, warm):
    def run(watch):
        torch.manual_seed(0)
        torch._dynamo.reset()
        net = Net(nn.Linear(4, 1))
        opt = torch.optim.SGD(net.parameters(), lr=1e-2)
        compiled = torch.compile(net, backend=backend)
        if watch:
            with watching(net, tmp_path) as seen:
                if warm:
                    step(compiled, opt)
                live.LiveTrace(seen.probes).arm()
                for _ in range(4 - warm):
                    step(compiled, opt)
                assert notes(seen) == []
        else:
            for _ in range(4):
                step(compiled, opt)
        return list(net.parameters())

    for a, b in zip(run(watch=True), run(watch=False), strict=True):
        assert torch.equal(a, b)


def test_a_value_in_a_model_that_is_compiled_later_is_located_in_it(tmp_path):
    net = Net(Counting(TWICE))
    compiled = torch.compile(net, backend="eager")
    seen = train(compiled, tmp_path, 6)
    assert [i.replay.verdict for i in seen.incidents if i.origin is None] == ["not_reproduced"]
    assert [i.origin.op for i in seen.incidents[1:]] == ["aten::div"]


class Watching(TorchDispatchMode):
    """A mode of the user's own."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


def test_modes_of_the_users_own(tmp_path):
    net = Net(nn.Linear(4, 1))
    opt = torch.optim.SGD(net.parameters(), lr=1e-2)
    with watching(net, tmp_path) as seen:
        live.LiveTrace(seen.probes).arm()
        out = net(torch.rand(6, 4))
        with Watching() as around_loss:
            loss = out.mean()
            loss.backward()
            assert torch._C._get_dispatch_stack_at(torch._C._len_torch_dispatch_stack() - 1) is around_loss
        assert torch._C._len_torch_dispatch_stack() == 0
        with Watching() as around_all:
            step(net, opt)
        assert torch._C._len_torch_dispatch_stack() == 0
        with Watching() as around_forward:
            out = net(torch.rand(6, 4))
        out.mean().backward()
    assert all((around_loss.seen, around_all.seen, around_forward.seen))
    assert notes(seen) == []


def test_what_cannot_be_taken_down_ends_the_trace_and_not_the_training(tmp_path, monkeypatch):
    monkeypatch.setattr(live_tracer, "MAX_EVENTS", 5)
    net = Net(nn.Linear(4, 1))
    opt = torch.optim.SGD(net.parameters(), lr=1e-2)
    with watching(net, tmp_path) as seen:
        live.LiveTrace(seen.probes).arm()
        step(net, opt)
        assert seen.probes.live.armed is None
    assert notes(seen) == ["the steps are no longer traced: one of them has more than 5 operations"]


def test_a_fault_of_ours_in_an_operation(tmp_path, monkeypatch):
    monkeypatch.setattr(live_tracer.LiveTracer, "after", lambda self, seen, result: 1 / 0)
    net = Net(nn.Linear(4, 1))
    opt = torch.optim.SGD(net.parameters(), lr=1e-2)
    with watching(net, tmp_path) as seen:
        live.LiveTrace(seen.probes).arm()
        step(net, opt)
        assert seen.probes.live.armed is None
    assert notes(seen) == ["the steps are no longer traced: ZeroDivisionError: division by zero"]


def test_a_thread_that_ends_in_the_middle_of_a_step(tmp_path):
    net = Net(nn.Linear(4, 1))
    opt = torch.optim.SGD(net.parameters(), lr=1e-2)
    with watching(net, tmp_path) as seen:
        live.LiveTrace(seen.probes).arm()
        thread = threading.Thread(target=lambda: net(torch.rand(6, 4)))
        thread.start()
        thread.join()
        step(net, opt)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_copies_and_pickles_of_an_armed_model_carry_nothing(tmp_path):
    net = Net(nn.Linear(4, 1))
    with watching(net, tmp_path) as seen:
        trace = live.LiveTrace(seen.probes)
        trace.arm()
        copied, loaded = copy.deepcopy(net), pickle.loads(pickle.dumps(net))
        copied(torch.rand(1, 4))
        loaded(torch.rand(1, 4))
        assert not trace.calls
        torch.jit.script(net)
        assert seen.probes.live.armed is None


def test_what_was_recorded_is_let_go_of(tmp_path):
    net = Net(nn.Linear(4, 1))
    opt = torch.optim.SGD(net.parameters(), lr=1e-2)
    held = []
    with watching(net, tmp_path) as seen:
        live.LiveTrace(seen.probes).arm()

        def loss(out):
            held.append(weakref.ref(out))
            return out.mean()

        step(net, opt, loss=loss)
        assert not seen.probes.live.armed.has_trace
        assert [r() for r in held] == [None]


def test_the_counters_of_the_hardware(tmp_path):
    seen = train(Net(Counting({3})), tmp_path, 4)
    member = tmp_path / "incidents" / seen.incident.id / "environment.json"
    hardware = json.loads(member.read_text())["hardware"]
    assert set(hardware) == {"memory", "devices"}

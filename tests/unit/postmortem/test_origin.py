"""The origin and the cause of small faults, each in a program of its own."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
from watching import watching


class Block(nn.Module):
    """A linear layer, then the function under test, inside the model."""

    def __init__(self, function, width=8):
        super().__init__()
        self.fc = nn.Linear(4, width)
        self.function = function

    def forward(self, x):
        return self.function(self.fc(x), x)


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.block = Block(function)

    def forward(self, x):
        return self.block(x)


def train(
    net,
    tmp_path,
    *,
    loss=lambda out, x: out.float().pow(2).mean(),
    steps=4,
    bad_step=2,
    spoil=None,
    opt=None,
    around=None,
):
    """Train; at `bad_step` the batch goes through `spoil`. Returns the incident."""
    torch.manual_seed(0)
    opt = opt or torch.optim.SGD(net.parameters(), lr=1e-3)
    with watching(net, tmp_path) as seen:
        for i in range(steps):
            x = torch.rand(6, 4) + 0.5
            if i == bad_step and spoil is not None:
                x = spoil(x)
            opt.zero_grad()
            if around is not None:
                with around():
                    value = loss(net(x), x)
            else:
                value = loss(net(x), x)
            value.backward()
            opt.step()
    incident = seen.incident
    assert incident.step == bad_step
    assert incident.replay.verdict == "reproduced", incident.replay
    return incident


def zero_row(x):
    x = x.clone()
    x[3] = 0
    return x


def times(value):
    return lambda x: x * value


def forward_log(h, x):
    return torch.log(x.sum(1, keepdim=True)) + h


def forward_divide(h, x):
    return h / x.sum(1, keepdim=True)


def forward_normalise(h, x):
    g = h * x.sum(1, keepdim=True)
    return g / g.norm(dim=1, keepdim=True)


def forward_sqrt(h, x):
    return torch.sqrt(x.sum(1, keepdim=True) - 0.1) + h


def forward_exp(h, x):
    return torch.exp(x.sum(1, keepdim=True)) * 1e-3 + h


def forward_masked_softmax(h, x):
    scores = h.masked_fill(x.sum(1, keepdim=True) == 0, float("-inf"))
    return scores.softmax(1)


def forward_additive_mask(h, x):
    mask = torch.where(x.sum(1, keepdim=True) == 0, float("-inf"), 0.0)
    return (h + mask).softmax(1)


def forward_empty_mean(h, x):
    return h + h[x.sum(1) == 100].mean()


def forward_std_of_one(h, x):
    return h + h[x.sum(1) == 0].std(0) if (x.sum(1) == 0).any() else h


def forward_in_place(h, x):
    y = x.sum(1, keepdim=True).clone()
    y.log_()
    return h + y


def forward_acos(h, x):
    return torch.acos(x.sum(1, keepdim=True) / 20) + h


def forward_unwritten(h, x):
    out = torch.empty(6, 8)
    if x.sum(1).min() == 0:
        out[:3] = h[:3]
        return out + h
    return h


STD_WARNS = pytest.mark.filterwarnings("ignore:std\\(\\):UserWarning")

FORWARD = [
    (forward_log, zero_row, "aten::log", "inf", "log_of_zero", (3,)),
    (forward_divide, zero_row, "aten::div", "inf", "division_by_zero", (3,)),
    (forward_normalise, zero_row, "aten::div", "nan", "division_by_zero", (3,)),
    (forward_sqrt, zero_row, "aten::sqrt", "nan", "invalid_domain", (3,)),
    (forward_exp, times(100), "aten::exp", "inf", "overflow_exp", ()),
    (forward_masked_softmax, zero_row, "aten::_softmax", "nan", "masked_softmax", (3,)),
    (forward_additive_mask, zero_row, "aten::_softmax", "nan", "masked_softmax", (3,)),
    pytest.param(forward_std_of_one, zero_row, "aten::std", "nan", "empty_reduction", (3,), marks=STD_WARNS),
    (forward_in_place, zero_row, "aten::log_", "inf", "log_of_zero", (3,)),
    (forward_acos, times(100), "aten::acos", "nan", "invalid_domain", ()),
]


@pytest.mark.parametrize(
    ("function", "spoil", "op", "value", "cause", "rows"),
    FORWARD,
    ids=[getattr(f, "values", f)[0].__name__ for f in FORWARD],
)
def test_forward(tmp_path, function, spoil, op, value, cause, rows):
    incident = train(Net(function), tmp_path, spoil=spoil)
    o = incident.origin
    assert (o.phase, o.op, o.value, o.module, o.module_type) == ("forward", op, value, "block", "Block")
    assert o.file == __file__
    lines, first = inspect.getsourcelines(function)
    assert first <= o.line < first + len(lines)
    assert o.code == lines[o.line - first].strip()
    assert (o.file, o.line, o.function) == (o.stack[0].file, o.stack[0].line, o.stack[0].function)
    assert "train" in [f.function for f in o.stack]
    assert incident.cause.label == cause
    assert incident.cause.fix
    assert o.batch_rows == rows
    assert incident.replay.bitwise


def test_uninitialised_memory(tmp_path):
    torch.use_deterministic_algorithms(True)  # fills it with NaN, so that the fault repeats
    try:
        incident = train(Net(forward_unwritten), tmp_path, spoil=zero_row)
    finally:
        torch.use_deterministic_algorithms(False)
    assert incident.origin.op == "aten::empty"
    assert incident.cause.label == "uninitialised_memory"


def test_empty_reduction(tmp_path):
    class Sometimes(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            kept = self.fc(x)[x.sum(1) > 0]
            return kept.mean()

    incident = train(Sometimes(), tmp_path, spoil=times(0.0), loss=lambda out, x: out)
    assert (incident.origin.op, incident.cause.label) == ("aten::mean", "empty_reduction")


def loss_log(out, x):
    return -torch.log(out.pow(2).mean() * x.sum().sign()).mean()


def test_loss_code_outside_of_the_model(tmp_path):
    incident = train(Net(lambda h, x: h), tmp_path, spoil=times(0.0), loss=loss_log)
    o = incident.origin
    assert (o.phase, o.op, o.module) == ("loss", "aten::log", None)
    assert o.code == "return -torch.log(out.pow(2).mean() * x.sum().sign()).mean()"


def backward_sqrt(h, x):
    return torch.sqrt(h * x.sum(1, keepdim=True).sign() + (1 - x.sum(1, keepdim=True).sign()) * (h * 0)).pow(2)


def backward_norm_by_hand(h, x):
    d = h * x.sum(1, keepdim=True).sign()
    return d * (d.pow(2).sum(1, keepdim=True)).sqrt()


def backward_where(h, x):
    z = h.abs() * x.sum(1, keepdim=True).sign()
    return torch.where(z > 0, torch.log(z), torch.zeros_like(z))


def backward_power(h, x):
    return (h.abs() * x.sum(1, keepdim=True).sign()) ** 0.5


BACKWARD = [
    (backward_norm_by_hand, "aten::sqrt", "sqrt_zero_grad"),
    (backward_where, "aten::log", "where_gradient"),
    (backward_power, "aten::pow", "pow_zero_grad"),
]


@pytest.mark.parametrize(("function", "op", "cause"), BACKWARD, ids=[f[0].__name__ for f in BACKWARD])
def test_backward_names_the_forward_operation(tmp_path, function, op, cause):
    incident = train(Net(function), tmp_path, spoil=zero_row)
    o = incident.origin
    assert incident.seen.where == "grad"
    assert (o.phase, o.op, o.module) == ("backward", op, "block")
    lines, first = inspect.getsourcelines(function)
    assert first <= o.line < first + len(lines)
    assert incident.cause.label == cause


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_block(tmp_path, reentrant):
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.block = Block(backward_norm_by_hand)

        def forward(self, x):
            gate = x.sum(1, keepdim=True).sign()
            return checkpoint(self.block, self.first(x) * gate, use_reentrant=reentrant)

    incident = train(Checkpointed(), tmp_path, spoil=zero_row)
    assert (incident.origin.phase, incident.origin.op, incident.origin.module) == ("backward", "aten::sqrt", "block")


def test_custom_function_names_its_own_backward_line(tmp_path):
    class Buggy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h, gate):
            ctx.save_for_backward(gate)
            return h * 1.0

        @staticmethod
        def backward(ctx, g):
            (gate,) = ctx.saved_tensors
            return g / gate, None

    incident = train(Net(lambda h, x: Buggy.apply(h, x.sum(1, keepdim=True).sign())), tmp_path, spoil=zero_row)
    assert incident.origin.code == "return g / gate, None"
    assert incident.cause.label == "custom_function_bug"
    assert incident.origin.phase == "backward"


def test_autocast_overflow(tmp_path):
    class Scores(nn.Module):
        def __init__(self):
            super().__init__()
            self.q = nn.Linear(4, 4)

        def forward(self, x):
            q = self.q(x) * x.max()
            return q @ q.t()

    incident = train(
        Scores(), tmp_path, spoil=times(3e2), around=lambda: torch.autocast("cpu", dtype=torch.float16),
        loss=lambda out, x: out.float().mean(),
    )  # fmt: skip
    assert incident.cause.label == "overflow_low_precision"
    assert incident.origin.op in {"aten::mm", "aten::matmul", "aten::mul"}


def test_dropout_is_replayed_bit_for_bit(tmp_path):
    class Dropped(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.drop = nn.Linear(4, 64), nn.Dropout(0.5)

        def forward(self, x):
            h = self.drop(torch.relu(self.fc(x)))
            return h / (h.sum() * x.sum().sign())

    incident = train(Dropped(), tmp_path, spoil=times(0.0))
    assert incident.replay.bitwise
    assert incident.origin.op == "aten::div"


def test_batch_norm_with_a_negative_variance(tmp_path):
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).eval()
    net[1].running_var[1] = -1.0
    incident = train(net, tmp_path, bad_step=0)
    assert incident.origin.module == "1"
    assert incident.cause.label == "bad_checkpoint"


def test_bad_input_names_leaf_and_rows(tmp_path):
    def spoil(x):
        x = x.clone()
        x[4, 1] = float("nan")
        return x

    incident = train(Net(lambda h, x: h), tmp_path, spoil=spoil)
    assert (incident.origin.phase, incident.origin.batch_rows, incident.cause.label) == ("data", (4,), "bad_input")
    assert incident.origin.param == "x"


def test_bad_target_is_a_bad_label(tmp_path):
    def loss(out, x):
        target = torch.zeros_like(out)
        target[2] = float("nan") if x.sum() == 0 else 0.0
        return F.mse_loss(out, torch.tensor(target.tolist()))

    incident = train(Net(lambda h, x: h), tmp_path, spoil=times(0.0), loss=loss)
    assert (incident.origin.phase, incident.cause.label, incident.origin.batch_rows) == ("data", "bad_label", (2,))


def test_bad_parameter_is_named(tmp_path):
    net = Net(lambda h, x: h)
    with torch.no_grad():
        net.block.fc.weight[0, 0] = float("nan")
    incident = train(net, tmp_path, bad_step=0)
    assert (incident.origin.phase, incident.origin.param) == ("params", "block.fc.weight")
    assert incident.cause.label == "bad_init"
    assert incident.origin.op == "aten::addmm"


def test_adam_without_eps(tmp_path):
    net = nn.Embedding(5, 2)
    opt = torch.optim.Adam(net.parameters(), lr=1e-3, eps=0.0)
    with watching(net, tmp_path) as seen:
        net(torch.tensor([0, 1])).pow(2).mean().backward()
        opt.step()
    o = seen.incident.origin
    assert (o.phase, o.op, o.param, seen.incident.cause.label) == (
        "optimizer",
        "aten::addcdiv_",
        "weight",
        "optimizer_eps",
    )
    assert o.code == "opt.step()"
    assert seen.incident.seen.where == "parameter"


def test_a_learning_rate_that_is_not_finite(tmp_path):
    net = Net(lambda h, x: h)
    opt = torch.optim.SGD(net.parameters(), lr=0.1)
    with watching(net, tmp_path) as seen:
        net(torch.ones(2, 4)).mean().backward()
        opt.param_groups[0]["lr"] = float("inf")
        opt.step()
    assert (seen.incident.origin.phase, seen.incident.cause.label) == ("optimizer", "nonfinite_lr")


def test_benign_infinities_are_not_blamed(tmp_path):
    """A causal mask and a log(0) behind `where` run at every step; only the division is at fault."""

    def function(h, x):
        mask = torch.triu(torch.full((8, 8), float("-inf")), diagonal=1)
        a = (h.unsqueeze(2) * h.unsqueeze(1) + mask).softmax(-1)
        safe = torch.where(x > 0, torch.log(x), torch.zeros_like(x)).sum(1, keepdim=True)
        return (a @ h.unsqueeze(2)).squeeze(2) + safe.detach() + h / x.sum(1, keepdim=True)

    incident = train(Net(function), tmp_path, spoil=zero_row)
    assert (incident.origin.op, incident.cause.label) == ("aten::div", "division_by_zero")


def test_a_step_that_does_not_repeat_says_so(tmp_path):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.calls = nn.Linear(4, 1), 0

        def forward(self, x):
            self.calls += 1
            return self.fc(x) / (self.calls != 3)

    net = Counter()
    opt = torch.optim.SGD(net.parameters(), lr=1e-3)
    with watching(net, tmp_path) as seen:
        for _ in range(3):
            opt.zero_grad()
            net(torch.ones(2, 4)).mean().backward()
            opt.step()
    assert seen.incidents[0].replay.verdict == "not_reproduced"
    assert seen.incidents[0].replay.attempts == 2
    assert seen.incidents[0].origin is None

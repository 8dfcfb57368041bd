"""Copies of parameters and optimizer state from before the last step: what they hold, and what they leave alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from watching import watching

from nanwatch.records import NoteRecord

MUCH = 1 << 28

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "adamw foreach": lambda p: torch.optim.AdamW(p, lr=1e-2, foreach=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=1e-2, fused=True),
    "momentum": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9),
}


def make(optimizer=OPTIMIZERS["adamw"]):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))
    return net, optimizer(net.parameters())


def train(net, opt, steps, *, before_step=None):
    for _ in range(steps):
        opt.zero_grad()
        F.cross_entropy(net(torch.rand(6, 4)), torch.randint(0, 2, (6,))).backward()
        if before_step is not None:
            before_step()
        opt.step()


def copies(net):
    return [p.detach().clone() for p in net.parameters()]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_hundred_steps_give_the_same_bits_with_and_without(tmp_path, name):
    net, opt = make(OPTIMIZERS[name])
    train(net, opt, 100)
    shadowed, other = make(OPTIMIZERS[name])
    with watching(shadowed, tmp_path, shadow_bytes=MUCH) as seen:
        train(shadowed, other, 100)
        assert seen.probes.shadow.bytes > 0
    assert same(net.parameters(), shadowed.parameters())
    for p, q in zip(net.parameters(), shadowed.parameters(), strict=True):
        assert opt.state[p].keys() == other.state[q].keys()
        assert all(torch.equal(v, other.state[q][k]) for k, v in opt.state[p].items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_holds_what_was_before_the_last_step(tmp_path, name):
    net, opt = make(OPTIMIZERS[name])
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        shadow = seen.probes.shadow
        assert shadow.before(net[0].weight) is None
        train(net, opt, 1)
        assert shadow.state_before(opt, net[0].weight).entries == {}
        opt.param_groups[0]["lr"] = 0.5
        was = {}
        train(net, opt, 1, before_step=lambda: was.update(
            value=copies(net), state={k: v.clone() for k, v in opt.state[net[0].weight].items()}))  # fmt: skip
        opt.param_groups[0]["lr"] = 0.25
        assert same([shadow.before(p) for p in net.parameters()], was["value"])
        assert not same(net.parameters(), was["value"])
        before = shadow.state_before(opt, net[0].weight)
    assert before.settings["lr"] == 0.5
    assert before.entries.keys() == was["state"].keys() == opt.state[net[0].weight].keys()
    assert all(torch.equal(before.entries[k], v) for k, v in was["state"].items())
    assert before.not_kept == ()


def test_the_same_memory_is_used_at_every_step(tmp_path):
    net, opt = make()
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        shadow = seen.probes.shadow
        train(net, opt, 2)
        size, at = shadow.bytes, [shadow.before(p).data_ptr() for p in net.parameters()]
        train(net, opt, 5)
        assert (shadow.bytes, [shadow.before(p).data_ptr() for p in net.parameters()]) == (size, at)
    parameters = sum(p.numel() * 4 for p in net.parameters())
    assert size == 3 * parameters + 4 * len(list(net.parameters())), "values, two moments, and a count each"


def test_state_that_is_dropped_and_made_again_is_counted_once(tmp_path):
    net, opt = make()
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        train(net, opt, 2)
        size = seen.probes.shadow.bytes
        for _ in range(5):
            opt.state.clear()
            train(net, opt, 2)
        assert seen.probes.shadow.bytes == size


def test_an_optimizer_that_takes_over_does_not_double_the_memory(tmp_path):
    net, opt = make()
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        train(net, opt, 2)
        size = seen.probes.shadow.bytes
        other = OPTIMIZERS["adamw"](net.parameters())
        train(net, other, 2)
        assert seen.probes.shadow.bytes == size
        assert seen.probes.shadow.state_before(opt, net[0].weight) is None


def test_what_does_not_fit_is_given_back_and_told(tmp_path):
    net, opt = make()
    limit = 2 * sum(p.numel() * 4 for p in net.parameters())
    with watching(net, tmp_path, shadow_bytes=limit) as seen:
        train(net, opt, 1)
        assert 0 < seen.probes.shadow.bytes <= limit
        train(net, opt, 3)
        assert seen.probes.shadow is None
    notes = [r for r in seen.records if isinstance(r, NoteRecord)]
    assert [n.reason for n in notes] == ["shadow_too_large"]
    assert len(seen.steps) == 4


def test_a_lazy_module_and_a_head_added_later_are_kept_once_they_train(tmp_path):
    torch.manual_seed(0)
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        shadow = seen.probes.shadow
        train(net, opt, 2)
        assert shadow.before(net[0].weight).shape == (8, 4)
        net.append(nn.Linear(2, 2))
        opt.add_param_group({"params": net[3].parameters()})
        train(net, opt, 20)
        assert shadow.before(net[3].weight) is not None
        for old in opt.param_groups.pop()["params"]:
            opt.state.pop(old)
        del old
        net[3] = nn.Linear(2, 2)
        opt.add_param_group({"params": net[3].parameters()})
        size = shadow.bytes
        train(net, opt, 40)
        assert shadow.before(net[3].weight) is not None
        assert shadow.bytes == size


def test_the_history_of_lbfgs_is_named_as_not_kept(tmp_path):
    net = nn.Linear(4, 2)
    opt = torch.optim.LBFGS(net.parameters(), max_iter=4)
    x = torch.rand(6, 4)

    def closure():
        opt.zero_grad()
        loss = net(x).pow(2).mean()
        loss.backward()
        return loss

    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        for _ in range(3):
            was = copies(net)
            opt.step(closure)
        assert same([seen.probes.shadow.before(p) for p in net.parameters()], was)
        assert {"old_dirs", "old_stps"} <= set(seen.probes.shadow.state_before(opt, net.weight).not_kept)
    assert not seen.trips


class Wrapper(torch.optim.Optimizer):
    """Holds another optimizer, as SAM and Lookahead do."""

    def __init__(self, params, **settings):
        super().__init__(params, {"rho": 0.05})
        self.base = torch.optim.AdamW(self.param_groups, **settings)

    @torch.no_grad()
    def step(self, closure=None):
        self.base.step()


def test_a_wrapped_optimizer_is_kept_with_its_own_state(tmp_path):
    net, opt = make(Wrapper)
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        train(net, opt, 2)
        was = copies(net)
        train(net, opt, 1)
        shadow = seen.probes.shadow
        assert same([shadow.before(p) for p in net.parameters()], was)
        assert {"exp_avg", "exp_avg_sq", "step"} == set(shadow.state_before(opt.base, net[0].weight).entries)
        assert float(shadow.state_before(opt.base, net[0].weight).entries["step"]) == 2


def test_two_optimizers_are_kept_side_by_side(tmp_path):
    a, first = make()
    b, second = make(OPTIMIZERS["momentum"])
    with watching({"a": a, "b": b}, tmp_path, shadow_bytes=MUCH) as seen:
        train(a, first, 2)
        train(b, second, 1)
        shadow = seen.probes.shadow
        assert shadow.stepped == {id(p) for p in b.parameters()}
        assert all(shadow.before(p) is not None for p in (*a.parameters(), *b.parameters()))


def test_what_is_not_watched_is_not_copied(tmp_path):
    net, _ = make()
    other = nn.Linear(4, 4)
    opt = torch.optim.SGD([*net.parameters(), *other.parameters()], lr=0.1)
    for p in other.parameters():
        p.grad = torch.zeros_like(p)
    with watching(net, tmp_path, shadow_bytes=MUCH) as seen:
        train(net, opt, 1)
        assert seen.probes.shadow.before(other.weight) is None
        assert seen.probes.shadow.bytes == sum(p.numel() * 4 for p in net.parameters())


def test_nothing_is_kept_without_being_asked_for(tmp_path):
    net, opt = make()
    with watching(net, tmp_path) as seen:
        train(net, opt, 1)
        assert seen.probes.shadow is None

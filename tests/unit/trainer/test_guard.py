"""Which guard is chosen, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nanwatch.errors import SetupError
from nanwatch.settings import resolve
from nanwatch.trainer.guard import check_guard, chosen_guard, shadow_bytes, told_guard

MIB = 1 << 20


def settings(tmp_path, **keywords):
    return resolve(keywords, {}, tmp_path)


def mib_of_parameters(mib):
    return nn.Linear(mib * MIB // 4 // 64, 64, bias=False)


def test_the_estimate_counts_what_trains_and_its_state():
    net = mib_of_parameters(2)
    assert shadow_bytes(net.parameters()) == 6 * MIB
    assert shadow_bytes(nn.LazyLinear(3).parameters()) == 0


def test_on_the_cpu_auto_is_sync_and_nothing_is_said(tmp_path):
    net = mib_of_parameters(1)
    given = settings(tmp_path)
    assert chosen_guard(given, [net]) == "sync"
    assert told_guard(given, "sync", [net]) == ""


def test_what_is_asked_for_and_fits_is_taken_and_said(tmp_path):
    given = settings(tmp_path, guard="shadow")
    net = mib_of_parameters(2)
    check_guard(given, [net, net])
    assert chosen_guard(given, [net]) == "shadow"
    assert told_guard(given, "shadow", [net]) == "guard shadow (about 6 MiB)"


def test_frozen_parameters_need_no_copy(tmp_path):
    net = mib_of_parameters(8).requires_grad_(False)
    check_guard(settings(tmp_path, guard="shadow", max_shadow_mib=1), [net])


@pytest.mark.parametrize(
    ("keywords", "says"),
    [
        ({"guard": "shadow", "max_shadow_mib": 5}, "about 6 MiB .* max_shadow_mib is 5: set max_shadow_mib=6"),
        ({"guard": "freeze"}, "'freeze' is not available: use 'shadow'"),
        ({"guard": "none", "on_nonfinite": "stop"}, "cannot keep on_nonfinite='stop'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(tmp_path, keywords, says):
    with pytest.raises(SetupError, match=says):
        check_guard(settings(tmp_path, **keywords), [mib_of_parameters(2)])


def test_what_has_no_dense_copy_is_refused(tmp_path):
    net = nn.Linear(2, 2)
    net.weight = nn.Parameter(torch.eye(2).to_sparse())
    with pytest.raises(SetupError, match=r"sparse_coo.*guard='auto' or 'sync'"):
        check_guard(settings(tmp_path, guard="shadow"), [net])

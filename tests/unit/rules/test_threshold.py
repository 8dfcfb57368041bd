import math

import pytest
from pydantic import ValidationError

from nanwatch.records import LogRecord, NamesRecord
from nanwatch.rules import Threshold


def test_fires_after_for_steps_and_resolves_after_keep_firing_steps(run, a_step):
    rule = Threshold(metric="grad_norm", above=10, for_steps=3, keep_firing_steps=2, warmup_steps=0)
    grads = [1, 50, 50, 50, 50, 1, 1, 1]
    alerts = run([rule], [a_step(s, [g]) for s, g in enumerate(grads)])
    assert [(a.state, a.step) for a in alerts] == [("pending", 1), ("firing", 3), ("recovering", 5), ("resolved", 6)]
    assert len({a.id for a in alerts}) == 1
    firing = alerts[1]
    assert (firing.rule, firing.value, firing.limit, firing.cause) == (
        "threshold-grad_norm",
        50,
        10,
        "exploding_gradient",
    )
    assert "50 at step 3, above the limit of 10" in firing.summary
    assert "clip_grad_norm_" in firing.summary


def test_a_pending_alert_that_calms_down_is_closed_and_never_fires(run, a_step):
    rule = Threshold(metric="grad_norm", above=10, for_steps=3, warmup_steps=0)
    alerts = run([rule], [a_step(s, [g]) for s, g in enumerate([50, 50, 1, 50, 1])])
    assert [a.state for a in alerts] == ["pending", "resolved", "pending", "resolved"]


def test_below_speaks_of_vanishing(run, a_step):
    alerts = run([Threshold(metric="grad_norm", below=1e-7, warmup_steps=0)], [a_step(0, [1e-9])])
    assert alerts[0].cause == "vanishing_gradient"
    assert "below the limit of 1e-07" in alerts[0].summary


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_non_finite_value_is_never_compared(run, value):
    rule = Threshold(metric="val_loss", above=1, below=0, warmup_steps=0)
    assert run([rule], [LogRecord(0, 5, 5, 1e9, {"val_loss": value})]) == []


def test_a_user_value_fires_by_name(run):
    rule = Threshold(metric="val_loss", above=1, warmup_steps=0, summary="{metric} was {value} ({limit}) at {step}")
    (alert,) = run([rule], [LogRecord(2, 5, 105, 1e9, {"val_loss": 2.0})])
    assert alert.summary == "val_loss was 2 (1) at 105"
    assert (alert.step, alert.step_total, alert.rank) == (5, 105, 2)


def test_warm_up_and_cooldown_are_silent(run, a_step):
    rule = Threshold(metric="grad_norm", above=10, warmup_steps=3, cooldown_steps=4, keep_firing_steps=1)
    grads = [50, 50, 50, 50, 1, 50, 50, 50, 50]
    alerts = run([rule], [a_step(s, [g]) for s, g in enumerate(grads)])
    assert [(a.state, a.step) for a in alerts] == [("firing", 3), ("resolved", 4), ("firing", 8)]


def test_each_tensor_is_an_instance_and_the_worst_ones_are_announced(run, a_step):
    names = tuple(f"layers.{k}.weight" for k in range(300))
    rule = Threshold(metric="grad_l2", above=10, warmup_steps=0)
    alerts = run([rule], [NamesRecord(1, names, (1,) * 300, ("",) * 300), a_step(0, [100.0 + k for k in range(300)])])
    assert [a.param for a in alerts] == [f"layers.{k}.weight" for k in (299, 298, 297, 296, 295)]
    assert alerts[0].module == "layers.299"
    assert "299 more tensors" in alerts[0].summary
    assert len({a.fingerprint for a in alerts}) == 5


def test_tensors_can_be_chosen(run, a_step):
    rule = Threshold(metric="grad_l2", above=10, warmup_steps=0, tensors="*.bias")
    alerts = run([rule], [NamesRecord(1, ("a.weight", "a.bias"), (1, 1), ("", "")), a_step(0, [99.0, 98.0])])
    assert [a.param for a in alerts] == ["a.bias"]


def test_an_alert_on_a_tensor_that_is_gone_is_closed(run, a_step):
    rule = Threshold(metric="grad_l2", above=10, warmup_steps=0)
    records = [
        NamesRecord(1, ("old",), (1,), ("",)),
        a_step(0, [99.0]),
        NamesRecord(2, ("new",), (1,), ("",)),
        a_step(1, [1.0], names_id=2),
    ]
    assert [(a.state, a.param) for a in run([rule], records)] == [("firing", "old"), ("resolved", "old")]


@pytest.mark.parametrize("bad", [{}, {"above": 1, "below": 2}, {"above": math.nan}, {"above": math.inf}, {"abov": 1}])
def test_limits_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValidationError):
        Threshold(metric="loss", **bad)

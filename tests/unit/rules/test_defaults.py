import numpy as np
import pytest

from nanwatch.records import Tick
from nanwatch.rules import default_rules


def healthy(seed, steps=1500):
    """Loss that falls with noise, gradient norms with a log-normal tail: what real runs look like."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    loss = 0.3 + 4 * np.exp(-t / 200) + rng.normal(0, 0.15, steps)
    grads = (1 + 5 * np.exp(-t / 100)) * rng.lognormal(0, 0.5, steps)
    return loss, grads


def above_info(alerts):
    return [a for a in alerts if a.severity != "info"]


@pytest.mark.parametrize("seed", range(3))
def test_a_healthy_run_is_silent(run, a_step, seed):
    loss, grads = healthy(seed)
    records = [a_step(s, [g], loss=float(v)) for s, (v, g) in enumerate(zip(loss, grads, strict=True))]
    assert above_info(run(list(default_rules()), records)) == []


def test_huge_finite_gradients_that_are_clipped_every_step_are_no_fault(run, a_step):
    grads = np.random.default_rng(0).lognormal(np.log(1e9), 1.0, 500)
    records = [a_step(s, [g], grad_norm_clipped=1.0) for s, g in enumerate(grads)]
    assert above_info(run(list(default_rules()), records)) == []


def test_grad_scaler_that_looks_for_its_scale_is_no_fault(run, a_step):
    first = [a_step(0, [1.0], nan_in=(0,), scaler_skipped=True, loss_scale=2.0**24 / 2**s) for s in range(10)]
    later = [a_step(s, [1.0], loss_scale=2.0**14) for s in range(1, 300)]
    grown = [a_step(300, [1.0], nan_in=(0,), scaler_skipped=True, loss_scale=2.0**15)]
    assert run(list(default_rules()), [*first, *later, *grown]) == []


def test_a_long_run_with_ticks_is_silent(run, a_step):
    records = [r for s in range(200) for r in (a_step(s), Tick(60.0 * s, True))]
    assert run(list(default_rules()), records) == []

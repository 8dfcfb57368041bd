import json
import math

import numpy as np
import pytest
from pydantic import ValidationError

from nanwatch.records import LogRecord, NamesRecord
from nanwatch.rules import RuleEngine, Spike
from nanwatch.rules.spike import _median


def noisy(count, seed=0):
    return [float(v) for v in np.random.default_rng(seed).normal(2.0, 0.1, count)]


def test_a_jump_fires_and_the_text_says_how_far(run, a_step):
    grads = [*noisy(120), 40.0, *noisy(3)]
    alerts = run([Spike(metric="grad_norm", severity="info")], [a_step(s, [g]) for s, g in enumerate(grads)])
    assert [(a.state, a.step) for a in alerts] == [("firing", 120), ("recovering", 121)]
    assert alerts[0].severity == "info"
    assert alerts[0].cause == "exploding_gradient"
    assert "times the median of the last 120 values (2" in alerts[0].summary
    assert alerts[0].limit < 40


def test_learning_and_level_are_no_spikes(run, a_step):
    falling = [10 * math.exp(-s / 300) + 0.05 * n for s, n in enumerate(noisy(600))]
    assert run([Spike(metric="loss")], [a_step(s, loss=v) for s, v in enumerate(falling)]) == []


def test_up_is_the_default_direction(run, a_step):
    grads = [*noisy(100), 0.001]
    records = [a_step(s, [g]) for s, g in enumerate(grads)]
    assert run([Spike(metric="grad_norm")], records) == []
    (alert,) = run([Spike(metric="grad_norm", direction="down")], records)
    assert alert.cause == "vanishing_gradient"


def test_too_few_values_make_no_judgement(run, a_step):
    records = [a_step(s, [g]) for s, g in enumerate([*noisy(30), 1e6])]
    assert run([Spike(metric="grad_norm", warmup_steps=0)], records) == []


def test_the_window_skips_what_is_not_finite(run):
    values = [v for pair in zip(noisy(100), [math.nan] * 100, strict=True) for v in pair]
    records = [LogRecord(0, s, s, 1e9, {"x": v}) for s, v in enumerate([*values, math.inf, 50.0])]
    (alert,) = run([Spike(metric="x")], records)
    assert alert.value == 50.0


def test_without_any_scale_nothing_is_judged(run):
    records = [LogRecord(0, s, s, 1e9, {"x": v}) for s, v in enumerate([*[0.0] * 100, 1e-9])]
    assert run([Spike(metric="x")], records) == []


def test_each_tensor_has_its_own_past(run, a_step):
    names = tuple(f"t{k}" for k in range(200))
    base = np.array(noisy(200)) * np.logspace(-3, 3, 200)
    rng = np.random.default_rng(1)
    records = [NamesRecord(1, names, (1,) * 200, ("",) * 200)]
    records += [a_step(s, base * rng.normal(1, 0.02, 200)) for s in range(150)]
    spiked = base.copy()
    spiked[7] *= 30
    alerts = run([Spike(metric="grad_l2")], [*records, a_step(150, spiked)])
    assert [a.param for a in alerts] == ["t7"]


def test_median_of_rows_with_gaps_is_numpys():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(30, 17))
    values[rng.random(values.shape) < 0.4] = np.nan
    values[3] = np.nan
    got, count = _median(values)
    assert count[3] == 0
    keep = count > 0
    np.testing.assert_allclose(got[keep], np.nanmedian(values[keep], axis=1))


def test_a_restored_window_goes_on_where_it_was(run, a_step):
    rule = Spike(metric="grad_norm", window=60, min_samples=50)
    records = [a_step(s, [g]) for s, g in enumerate(noisy(130))]
    engine = RuleEngine([rule], strict=True)
    run(engine, records)
    again = RuleEngine([rule], strict=True)
    assert again.restore(json.loads(json.dumps(engine.snapshot(), allow_nan=False))) == []
    rest = [a_step(130 + s, [g]) for s, g in enumerate([*noisy(5, 3), 30.0])]
    assert run(again, rest) == run(engine, rest) != []


@pytest.mark.parametrize("bad", [{"min_samples": 300}, {"limit": 0}, {"window": 2}, {"direction": "sideways"}])
def test_options_that_make_no_sense_are_refused(bad):
    with pytest.raises(ValidationError):
        Spike(metric="loss", **bad)

"""Windows grow with the run, keep every spike, and are the same when the records come again."""

from itertools import pairwise

import numpy as np
import pytest

from nanwatch.sinks.mlflow_windows import CHART_POINTS, FINE_STEPS, LONGEST_WINDOW_MS, Windows, window_of


def curves(values, *, kinds=("last", "max", "mean")):
    windows = Windows([f"k/{k}" for k in kinds], kinds)
    points = []
    for n, value in enumerate(values):
        points += windows.add(n, n + 1000, n * 10, np.full(len(kinds), value))
    points += windows.flush()
    return {kind: [p for p in points if p.key == f"k/{kind}"] for kind in kinds}


def test_windows_are_numbered_without_gaps_and_in_order():
    numbers = [window_of(n) for n in range(20_000)]
    assert [b - a for a, b in pairwise(numbers)].count(1) == numbers[-1]
    assert all(b - a in {0, 1} for a, b in pairwise(numbers))


@pytest.mark.parametrize(("steps", "most"), [(128, 128), (1_000, 230), (10_000, 330), (1_000_000, 545)])
def test_a_run_of_any_length_has_a_few_hundred_points(steps, most):
    assert window_of(steps - 1) + 1 <= most


def test_the_first_steps_have_a_point_each_at_once():
    windows = Windows(["k"], ["last"])
    for n in range(FINE_STEPS):
        (point,) = windows.add(n, n + 7, n * 10, np.array([float(n)]))
        assert (point.value, point.step, point.timestamp_ms) == (n, n + 7, n * 10)


@pytest.mark.parametrize("spike_at", [0, 5, 130, 777, 4_321, 9_999])
def test_a_spike_of_one_step_survives_what_a_chart_leaves_out(spike_at):
    values = np.ones(10_000)
    values[spike_at] = 100.0
    highest = curves(values)["max"]
    for offset in range(2):
        shown = [*highest[offset :: 1 + len(highest) // CHART_POINTS], highest[-1]]
        assert max(p.value for p in shown) == 100.0


def test_last_and_mean_are_those_of_the_window():
    made = curves(np.arange(132.0))
    assert made["last"][-1].value == 131.0
    assert made["mean"][-1].value == np.mean([128, 129, 130, 131])


def test_the_same_records_make_the_same_points():
    values = np.random.default_rng(0).random(3_000)
    assert curves(values) == curves(values)


def test_a_value_that_is_not_finite_has_no_point_and_spoils_no_window():
    values = np.ones(300)
    values[[3, 200, 201]] = [np.nan, np.inf, -np.inf]
    made = curves(values)
    assert all(np.isfinite(p.value) for points in made.values() for p in points)
    assert 1003 not in [p.step for p in made["last"]]


def test_a_key_that_never_had_a_value_has_no_point():
    windows = Windows(["a", "b"], ["last", "max"])
    points = windows.add(0, 0, 0, np.array([1.0, np.nan]))
    assert [p.key for p in points] == ["a"]


def test_a_window_does_not_stay_open_for_hours():
    windows = Windows(["k"], ["last"])
    n = 100_000
    assert windows.add(n, n, 0, np.array([1.0])) == []
    assert windows.add(n + 1, n + 1, LONGEST_WINDOW_MS, np.array([2.0])) != []


def test_a_gap_in_the_steps_closes_the_window_before_it():
    windows = Windows(["k"], ["last"])
    assert windows.add(1_000, 1_000, 0, np.array([1.0])) == []
    (point,) = windows.add(5_000, 5_000, 0, np.array([2.0]))
    assert point.step == 1_000

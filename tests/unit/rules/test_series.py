import math

import numpy as np
import pytest

from nanwatch.records import LogRecord, NamesRecord, NoteRecord, Tick, VitalsRecord
from nanwatch.rules.series import Series


def test_grad_norm_is_the_global_l2_over_tensors_with_a_gradient(a_step):
    moment = Series().read(a_step(0, [3.0, float("nan"), 4.0]))
    assert moment.values["grad_norm"] == pytest.approx(5.0)


def test_what_was_not_measured_is_absent(a_step):
    moment = Series().read(a_step(0, [], loss=float("nan"), loss_measured=False, lr=float("nan")))
    assert {"loss", "lr", "grad_norm", "loss_scale"}.isdisjoint(moment.values)
    assert not moment.poisoned


def test_a_non_finite_gradient_is_a_state_and_not_the_norm_of_its_finite_part(a_step):
    series = Series()
    series.read(NamesRecord(1, ("a", "b"), (4, 4), ("", "")))
    moment = series.read(a_step(0, [3.0, 4.0], nan_in=(1,)))
    assert math.isnan(moment.values["grad_norm"])
    assert moment.poisoned
    np.testing.assert_array_equal(np.isnan(moment.vectors_K["grad_l2"]), [False, True])


def test_vectors_need_names_of_the_same_length(a_step):
    series = Series()
    series.read(NamesRecord(1, ("a", "b", "c"), (4, 4, 4), ("", "", "")))
    assert series.read(a_step(0, [3.0, 4.0])).vectors_K == {}


def test_an_overflow_that_the_scaler_skipped_poisons_nothing_but_a_nan_loss_does(a_step):
    series = Series()
    skipped = a_step(0, [1.0], nan_in=(0,), scaler_skipped=True)
    assert not series.read(skipped).poisoned
    assert series.read(skipped).scaler_overflow
    nan_loss = a_step(1, [1.0], nan_in=(0,), scaler_skipped=True, bad_loss=True, loss=float("nan"))
    assert series.read(nan_loss).poisoned


def test_time_goes_on_while_the_scaler_skips_steps(a_step):
    series = Series()
    nows = [series.read(a_step(5, scaler_skipped=True)).now for _ in range(3)]
    assert nows == [5, 6, 7]


def test_what_the_user_logs_is_a_series_but_never_in_place_of_a_measured_one(a_step):
    series = Series()
    series.read(a_step(0))
    moment = series.read(LogRecord(0, 0, 0, 1e9, {"val_loss": 0.5, "loss": 99.0}))
    assert moment.values == {"val_loss": 0.5}


def test_vitals_and_ticks_carry_the_last_step(a_step):
    series = Series()
    series.read(a_step(7))
    assert series.read(VitalsRecord(1e9, {"host_memory_percent": 91.0})).step == 7
    assert series.read(Tick(1.0, True)).step == 7
    assert series.read(NoteRecord(0, "x", 1, "y")) is None

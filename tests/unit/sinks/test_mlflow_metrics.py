"""Records in, points out: the keys of a run, and never a value that is not finite."""

import dataclasses
import math

import numpy as np
import pytest

from nanwatch.records import Alert, LogRecord, NamesRecord, NoteRecord, StepRecord, VitalsRecord
from nanwatch.sinks.mlflow_metrics import SCALARS, StepMetrics

NAN = float("nan")
START = 1_000_000.0


def step(n, *, loss=1.0, rank=0, bad=False, scaler_skipped=False, tensors=4):
    stats = np.ones((tensors, 8), np.float32)
    stats[:, 5:] = 0
    if bad:
        stats[0, 5] = 2
    return StepRecord(
        rank=rank, step=n, step_total=n + 100, micro_steps=1, time_unix_s=START + n, monotonic_s=n, step_time_s=0.5,
        loss=NAN if bad else loss, loss_measured=True, lr=0.1, loss_scale=NAN, grad_norm_clipped=NAN, overhead=0.001,
        bad_loss=bad and not scaler_skipped, bad_grads=bad, bad_params=False, scaler_skipped=scaler_skipped,
        update_skipped=False, names_id=1, stats_KS=stats,
    )  # fmt: skip


def metrics(budget=100):
    made = StepMetrics(0, START, budget)
    made.name(NamesRecord(1, ("0.w", "0.b", "2.w", "2.b"), (4, 4, 4, 4), ("0", "0", "2", "2")))
    return made


def of(points, key):
    return [p.value for p in points if p.key == key]


def alert(state, identity="a"):
    return Alert("r", "spike", state, "warning", identity, "f", "loss", 1, 0, "s")


def test_a_small_model_has_at_least_twenty_keys_with_history():
    made = metrics()
    points = [p for n in range(50) for p in made.step(step(n))]
    lengths = {key: len(of(points, key)) for key in {p.key for p in points}}
    assert len(lengths) >= 18
    assert len(lengths) + len(made.log(LogRecord(0, 1, 1, START, {"val_loss": 1.0}))) <= 100
    assert set(lengths.values()) == {50}


def test_points_carry_the_step_and_time_of_the_record():
    point = metrics().step(step(7))[0]
    assert (point.step, point.timestamp_ms) == (107, round((START + 7) * 1000))


def test_a_key_is_never_also_a_section():
    made = metrics()
    keys = {p.key for p in [*made.step(step(0)), *made.log(LogRecord(0, 0, 0, START, {"a": 1.0, "a/b": 2.0}))]}
    assert not [k for k in keys for other in keys if other.startswith(f"{k}/")]


def test_a_non_finite_step_is_counted_and_has_no_loss_and_no_norm():
    made = metrics()
    points = [p for n in range(10) for p in made.step(step(n, bad=n >= 6))]
    assert all(math.isfinite(p.value) for p in points)
    assert len(of(points, "nanwatch/loss")) == len(of(points, "nanwatch/grad_norm")) == 6
    assert of(points, "nanwatch/nonfinite") == [0] * 6 + [1, 2, 3, 4]
    assert len(of(points, "nanwatch/grad_norm_by_block/2")) == 10
    assert (made.bad_steps, made.first_bad_step) == (4, 106)


def test_the_last_good_values_before_a_bad_step_have_their_own_point():
    made = metrics()
    for n in range(4_000, 4_010):
        made.step(step(n, loss=n))
    points = made.step(step(4_010, bad=True))
    assert of(points, "nanwatch/loss") == [4_009]


def test_an_overflow_that_the_scaler_expected_is_no_fault():
    made = metrics()
    made.step(step(0, bad=True, scaler_skipped=True))
    assert made.bad_steps == 0


def test_other_ranks_are_counted_but_make_no_curve():
    made = metrics()
    assert made.step(step(0, rank=1, bad=True)) == []
    assert made.bad_steps == 1


def test_an_alert_that_is_over_within_a_window_is_still_seen():
    made = metrics()
    for n in range(4_000, 4_005):
        made.step(step(n))
    made.alert(alert("firing"))
    made.alert(alert("resolved"))
    made.step(step(4_005))
    points = made.flush()
    assert of(points, "nanwatch/alerts_firing") == [1]
    assert of([*made.step(step(5_000)), *made.step(step(6_000)), *made.step(step(7_000))], "nanwatch/alerts_firing")


def test_dropped_records_are_counted():
    made = metrics()
    made.note(NoteRecord(0, "dropped_spool", 3, ""))
    made.note(NoteRecord(0, "guard", 1, "shadow"))
    assert of(made.step(step(0)), "nanwatch/dropped_records") == [3]


def test_the_users_values_come_at_once_and_a_nan_is_counted():
    made = metrics()
    points = made.log(LogRecord(0, 3, 103, START, {"val/loss": 0.5, "broken": NAN}))
    assert [(p.key, p.value, p.step) for p in points] == [("nanwatch/log/val.loss", 0.5, 103)]
    assert made.skipped == {"nonfinite_user_value": 1}
    assert made.names.changed == {"nanwatch/log/val.loss": "val/loss"}


def test_names_without_end_do_not_become_keys_without_end():
    made = metrics()
    for n in range(600):
        made.log(LogRecord(0, n, n, START, {f"name{n}": 1.0}))
    assert made.skipped == {"user_keys": 100}


def test_vitals_thin_out_over_time():
    made = metrics()
    points = [p for s in range(0, 100_000, 5) for p in made.vitals(VitalsRecord(START + s, {"trainer_rss_mb": 1.0}))]
    assert 300 < len(points) < 1_200
    assert {p.key for p in points} == {"system/nanwatch/trainer_rss_mb"}
    assert points[1].step == 10


def test_records_whose_names_are_unknown_still_give_the_scalars():
    made = StepMetrics(0, START, 100)
    assert {p.key for p in made.step(step(0))} <= {f"nanwatch/{name}" for name, _ in SCALARS}


def test_new_tensors_in_the_middle_of_a_run_change_the_blocks():
    made = metrics()
    made.step(step(0))
    made.name(NamesRecord(1, ("head.w",), (4,), ("head",)))
    assert of(made.step(step(1, tensors=1)), "nanwatch/grad_norm_by_block/head") == [1]


@pytest.mark.parametrize("budget", [20, 40, 100])
def test_all_keys_of_ours_stay_within_the_budget(budget):
    made = StepMetrics(0, START, budget)
    blocks = tuple(f"layers.{i}" for i in range(90))
    made.name(NamesRecord(1, tuple(f"{b}.w" for b in blocks), (4,) * 90, blocks))
    assert len({p.key for p in made.step(step(0, tensors=90))}) <= budget


def test_the_same_records_make_the_same_points():
    def run():
        made = metrics()
        return [p for n in range(1_000) for p in made.step(step(n, loss=n % 7, bad=n in {500, 501}))]

    assert run() == run()


def test_steps_that_the_loss_scale_drops_are_counted_and_a_run_without_one_has_no_such_curve():
    def last(scale, skipped):
        made = metrics()
        points = []
        for n in range(40):
            points += made.step(dataclasses.replace(step(n), loss_scale=scale, scaler_skipped=n in skipped))
        return [p.value for p in points + made.flush() if p.key == "nanwatch/scaler_skipped"][-1:]

    assert last(1024.0, {3, 4}) == [2.0]
    assert last(1024.0, set()) == [0.0]
    assert last(NAN, set()) == []

import json
import math

import pytest

from nanwatch.records import EndRecord, IncidentRecord, NamesRecord, json_ready
from nanwatch.rules import NonFinite, RuleEngine, Spike, Threshold

NAN = math.nan


def bad_loss(a_step, step, **more):
    return a_step(step, [1.0], loss=NAN, bad_loss=True, **more)


def test_one_alert_an_onset_closed_after_twenty_finite_steps(run, a_step):
    names = NamesRecord(1, tuple(f"l{k}.w" for k in range(300)), (1,) * 300, ("",) * 300)
    bad = [a_step(s, [1.0] * 300, nan_in=tuple(range(300)), loss=NAN, bad_loss=True) for s in (3, 4, 5)]
    good = [a_step(s, [1.0] * 300) for s in range(6, 40)]
    alerts = run([NonFinite()], [names, a_step(2, [1.0] * 300), *bad, *good])
    assert [(a.state, a.step) for a in alerts] == [("firing", 3), ("recovering", 6), ("resolved", 25)]
    assert len({a.id for a in alerts}) == 1
    firing = alerts[0]
    assert firing.severity == "critical"
    assert "The loss is NaN at step 3" in firing.summary
    assert "300 of 300 tensors" in firing.summary
    assert json_ready(firing)["value"] == "NaN"


def test_it_knows_no_warm_up(run, a_step):
    assert [a.state for a in run([NonFinite(warmup_steps=1000)], [bad_loss(a_step, 0)])] == ["firing"]


@pytest.mark.parametrize(
    ("fields", "metric", "words"),
    [
        ({"bad_grads": True}, "grad_norm", "the loss is finite"),
        ({"bad_params": True}, "parameters", "last checkpoint"),
        ({"bad_loss": True, "loss": math.inf}, "loss", "The loss is infinite"),
        ({"bad_grads": True, "update_skipped": True}, "grad_norm", "The update was dropped"),
    ],
)
def test_the_text_says_what_is_bad(run, a_step, fields, metric, words):
    (alert,) = run([NonFinite()], [a_step(4, [1.0], **fields)])
    assert alert.metric == metric
    assert words in alert.summary


def test_scaler_overflows_are_tolerated_until_there_are_too_many(run, a_step):
    def skip(s):
        return a_step(0, [1.0], nan_in=(0,), scaler_skipped=True, loss_scale=2.0**36 / 2**s)

    # The way down to where GradScaler itself begins is a search, however long.
    assert run([NonFinite()], [skip(s) for s in range(20 + 16)]) == []
    frozen = [a_step(0, [1.0], nan_in=(0,), scaler_skipped=True, loss_scale=1024.0)] * 21
    assert run([NonFinite()], frozen[:20]) == []
    (alert,) = run([NonFinite()], frozen)
    assert (alert.severity, alert.metric, alert.cause) == ("warning", "loss_scale", "overflow_low_precision")
    assert "skipped 21 steps in a row" in alert.summary


def test_a_collapsed_loss_scale_is_a_warning(run, a_step):
    (alert,) = run([NonFinite()], [a_step(0, [1.0], nan_in=(0,), scaler_skipped=True, loss_scale=0.5)])
    assert alert.severity == "warning"
    assert "fell to 0.5" in alert.summary


def test_a_nan_loss_fires_although_the_scaler_skips_it(run, a_step):
    (alert,) = run([NonFinite()], [bad_loss(a_step, 0, scaler_skipped=True)])
    assert alert.severity == "critical"


def test_the_incident_brings_its_id_without_a_second_alert_id(run, a_step):
    records = [bad_loss(a_step, 3), *[a_step(s) for s in range(4, 9)], IncidentRecord("inc-1", 0, 3, 3)]
    first, recovering, linked = run([NonFinite()], records)
    assert [first.state, recovering.state, linked.state] == ["firing", "recovering", "firing"]
    assert first.id == linked.id
    assert (first.incident_id, linked.incident_id) == (None, "inc-1")


def test_an_incident_that_is_there_before_its_step_waits_for_it(run, a_step):
    engine = RuleEngine([NonFinite()], strict=True)
    assert run(engine, [a_step(2), IncidentRecord("inc-1", 0, 3, 3), a_step(2)]) == []
    (alert,) = run(engine, [bad_loss(a_step, 3)])
    assert (alert.state, alert.incident_id, alert.step) == ("firing", "inc-1", 3)
    assert "The loss is NaN at step 3" in alert.summary


def test_a_capture_of_a_good_step_is_no_fault(run, a_step):
    assert run([NonFinite()], [a_step(2), IncidentRecord("inc-1", 0, 3, 3), *[a_step(s) for s in range(3, 9)]]) == []


def test_an_incident_on_which_training_was_stopped_fires_at_the_end(run, a_step):
    records = [a_step(2), IncidentRecord("inc-1", 0, 3, 103), EndRecord(0, "stopped", "", 1e9)]
    (alert,) = run([NonFinite()], records)
    assert (alert.state, alert.incident_id) == ("firing", "inc-1")
    assert "at step 103, the last one" in alert.summary
    captured = [a_step(2), IncidentRecord("inc-1", 0, 3, 103), EndRecord(0, "finished", "", 1e9)]
    assert run([NonFinite()], captured) == []


def test_an_incident_that_comes_after_the_end_of_its_alert_says_nothing(run, a_step):
    records = [bad_loss(a_step, 3), *[a_step(s) for s in range(4, 30)], IncidentRecord("inc-1", 0, 3, 3)]
    assert [a.state for a in run([NonFinite()], records)] == ["firing", "recovering", "resolved"]


def test_ranks_share_one_alert_that_ends_when_all_are_finite(run, a_step):
    records = [bad_loss(a_step, 3, rank=1), a_step(3, rank=0), a_step(4, rank=0), bad_loss(a_step, 4, rank=1)]
    records += [a_step(s, rank=r) for s in range(5, 30) for r in (0, 1)]
    alerts = run([NonFinite()], records)
    assert [a.state for a in alerts] == ["firing", "recovering", "resolved"]
    assert alerts[0].rank == 1


def test_numeric_rules_are_silent_from_the_first_non_finite_step(run, a_step):
    loud = Threshold(metric="lr", above=0.01, warmup_steps=0, id="lr")
    records = [bad_loss(a_step, 1), *[a_step(s) for s in range(2, 30)]]
    alerts = [a for a in run([loud, NonFinite()], records) if a.rule == "lr"]
    assert [(a.state, a.step) for a in alerts] == [("firing", 21)]


def test_they_are_silent_too_when_nonfinite_is_not_among_the_rules(run, a_step):
    loud = Threshold(metric="lr", above=0.01, warmup_steps=0)
    assert run([loud], [bad_loss(a_step, 1), *[a_step(s) for s in range(2, 20)]]) == []


def test_flapping_is_announced_a_few_times_only(run, a_step):
    records = [bad_loss(a_step, s) if s % 2 else a_step(s) for s in range(200)]
    alerts = run([NonFinite()], records)
    assert len(alerts) <= 12
    assert alerts[-1].state == "firing"


def test_a_restarted_engine_does_not_announce_it_again(run, a_step):
    rules = [NonFinite(), Spike(metric="loss")]
    engine = RuleEngine(rules, strict=True)
    (fired,) = run(engine, [bad_loss(a_step, 3)])
    again = RuleEngine(rules, strict=True)
    again.restore(json.loads(json.dumps(engine.snapshot(), allow_nan=False)))
    alerts = run(again, [bad_loss(a_step, 4), *[a_step(s) for s in range(5, 30)]])
    assert [a.state for a in alerts] == ["recovering", "resolved"]
    assert {a.id for a in alerts} == {fired.id}
    assert math.isnan(alerts[0].value)

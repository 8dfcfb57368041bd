import json

from nanwatch.records import EndRecord, LogRecord, Tick
from nanwatch.rules import Heartbeat, RuleEngine


def test_a_stall_fires_once_and_ends_with_the_next_step(run, a_step):
    ticks = [Tick(float(t), True) for t in range(0, 1000, 100)]
    alerts = run([Heartbeat()], [a_step(41), *ticks, a_step(42)])
    assert [(a.state, a.severity) for a in alerts] == [("firing", "warning"), ("resolved", "warning")]
    assert "no step for 600 s after step 41" in alerts[0].summary
    assert alerts[0].type == "heartbeat"


def test_a_second_stall_is_a_new_alert(run, a_step):
    stall = [Tick(0.0, True), Tick(700.0, True)]
    alerts = run([Heartbeat()], [a_step(1), *stall, a_step(2), *stall])
    assert len({a.id for a in alerts if a.state == "firing"}) == 2


def test_a_dead_trainer_is_not_a_stalled_one(run, a_step):
    assert run([Heartbeat()], [a_step(1), Tick(0.0, True), Tick(700.0, False)]) == []


def test_a_trainer_that_said_goodbye_does_not_stall(run, a_step):
    end = EndRecord(0, "detached", "", 1e9)
    assert run([Heartbeat()], [a_step(1), end, Tick(0.0, True), Tick(700.0, True)]) == []


def test_it_stalls_while_one_of_two_ranks_is_still_there(run, a_step):
    records = [
        a_step(1, rank=0),
        a_step(1, rank=1),
        EndRecord(1, "finished", "", 1e9),
        Tick(0.0, True),
        Tick(700.0, True),
    ]
    assert len(run([Heartbeat()], records)) == 1


def test_a_run_that_never_steps_stalls_too(run):
    (alert,) = run([Heartbeat(timeout_s=5)], [Tick(0.0, True), Tick(6.0, True)])
    assert "never made its first step" in alert.summary


def test_a_logged_value_is_a_sign_of_life(run, a_step):
    records = [a_step(1), Tick(0.0, True), LogRecord(0, 1, 1, 1e9, {"v": 1.0}), Tick(700.0, True), Tick(800.0, True)]
    assert run([Heartbeat()], records) == []


def test_a_restarted_agent_measures_silence_anew(run, a_step):
    engine = RuleEngine([Heartbeat()], strict=True)
    run(engine, [a_step(1), Tick(0.0, True)])
    again = RuleEngine([Heartbeat()], strict=True)
    again.restore(json.loads(json.dumps(engine.snapshot())))
    assert run(again, [Tick(900.0, True)]) == []

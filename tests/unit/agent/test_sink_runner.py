import threading
import time

import pytest

from nanwatch.agent.sink_runner import FAULT_LIMIT, SinkRunner
from nanwatch.errors import SinkError
from nanwatch.sinks.sink import RunEnd
from nanwatch.testing import MemorySink, example_alert, example_incident, example_step

END = RunEnd("finished", "", "FINISHED")


def started(sink, **changes):
    runner = SinkRunner("memory", lambda: sink, **{"uniform": lambda low, high: 0.01, "interval_s": 0.01, **changes})
    runner.start()
    return runner


def finish(runner, seconds=10.0, end=END):
    runner.finish(end, time.monotonic() + seconds)
    assert runner.join(seconds + 5)


def until(condition):
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_everything_reaches_the_sink_in_order_and_in_one_thread(tmp_path):
    threads = set()

    class Noting(MemorySink):
        def observe(self, record):
            threads.add(threading.current_thread().name)
            super().observe(record)

    sink = Noting()
    runner = started(sink)
    for n in range(100):
        runner.put(example_step(n))
    runner.put(example_alert())
    runner.put(example_incident(tmp_path))
    finish(runner)
    assert [r.step for r in sink.records] == list(range(100))
    assert len(sink.alerts) == len(sink.incidents) == 1
    assert sink.shipped == 102
    assert sink.end == END
    assert threads == {"sink-memory"}


def test_it_tries_again_after_failures_and_loses_nothing():
    sink = MemorySink([SinkError("down"), SinkError("down"), ValueError("bug")])
    runner = started(sink)
    runner.put(example_alert())
    until(lambda: sink.shipped == 1)
    assert "agent_error" not in runner.state()
    finish(runner)


def test_a_hanging_sink_delays_nobody_and_the_end_is_bounded():
    release = threading.Event()

    class Hanging(MemorySink):
        def ship(self, now_unix_s, *, final):
            release.wait(30)
            return True

    runner = started(Hanging())
    before = time.monotonic()
    for n in range(1000):
        runner.put(example_step(n))
    runner.state()
    runner.finish(END, time.monotonic() + 0.2)
    assert not runner.join(0.2)
    assert time.monotonic() - before < 20
    release.set()
    assert runner.join(10)


def test_a_permanent_refusal_switches_it_off_and_what_comes_then_is_counted():
    sink = MemorySink([SinkError("the run was deleted", permanent=True)])
    runner = started(sink)
    runner.put(example_step())
    until(lambda: "agent_disabled" in runner.state())
    runner.put(example_step(1))
    runner.put(example_alert())
    state = runner.state()
    assert state["agent_disabled"] == "the run was deleted"
    assert state["agent_dropped_disabled"] >= 2
    finish(runner)
    assert sink.end is None


def test_a_sink_whose_own_code_fails_is_switched_off():
    runner = started(MemorySink([ZeroDivisionError("ours")] * 100))
    until(lambda: "agent_disabled" in runner.state())
    assert runner.state()["agent_faults"] == FAULT_LIMIT
    assert "ours" in runner.state()["agent_disabled"]
    finish(runner)


def test_a_sink_that_cannot_be_made_is_said_and_does_not_hold_up_the_end():
    def make():
        raise SinkError("no such server")

    runner = SinkRunner("broken", make, uniform=lambda low, high: 0.0)
    runner.start()
    finish(runner)
    runner.put(example_step())
    assert runner.state()["agent_disabled"] == "SinkError: no such server"
    assert runner.state()["agent_dropped_disabled"] == 1


def test_one_bad_record_does_not_cost_the_others():
    class Picky(MemorySink):
        def observe(self, record):
            if record.step == 3:
                raise KeyError("three")
            super().observe(record)

    sink = Picky()
    runner = started(sink)
    for n in range(6):
        runner.put(example_step(n))
    finish(runner)
    assert [r.step for r in sink.records] == [0, 1, 2, 4, 5]


def test_the_end_goes_on_trying_until_the_deadline_and_says_farewell_after_a_refusal():
    class Stubborn(MemorySink):
        refusals = 2

        def close(self, end):
            if self.refusals:
                self.refusals -= 1
                raise SinkError("not yet")
            super().close(end)

    sink = Stubborn([SinkError("down"), SinkError("down")])
    runner = started(sink, interval_s=1000.0)
    runner.put(example_step())
    finish(runner)
    assert sink.shipped == 1
    assert sink.end == END


@pytest.mark.parametrize("asked_s", [5.0, 1e9])
def test_a_wait_beyond_the_deadline_is_not_begun(asked_s):
    sink = MemorySink([SinkError("busy", retry_after_s=asked_s)] * 3)
    runner = started(sink, interval_s=1000.0)
    until(lambda: "agent_error" in runner.state())
    before = time.monotonic()
    finish(runner, seconds=2.0)
    assert time.monotonic() - before < 2.0
    assert sink.end == END


def test_without_an_end_the_sink_is_not_closed():
    sink = MemorySink()
    runner = started(sink)
    runner.put(example_step())
    finish(runner, end=None)
    assert sink.shipped == 1
    assert sink.end is None

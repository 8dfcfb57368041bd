from nanwatch.agent.backoff import RETRY_AFTER_CAP_S, Backoff
from nanwatch.errors import SinkError


def test_waits_grow_to_a_cap_and_begin_again():
    backoff = Backoff(lambda low, high: high)
    waits = [backoff.delay_s(SinkError("no")) for _ in range(9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    backoff.reset()
    assert backoff.delay_s(ValueError("no")) == 1


def test_jitter_is_full():
    assert Backoff(lambda low, high: low).delay_s(SinkError("no")) == 0


def test_what_the_other_side_asks_for_is_honoured_up_to_a_cap():
    backoff = Backoff(lambda low, high: low)
    assert backoff.delay_s(SinkError("no", retry_after_s=7.0)) == 7
    assert backoff.delay_s(SinkError("no", retry_after_s=1e9)) == RETRY_AFTER_CAP_S

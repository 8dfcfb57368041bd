from nanwatch.agent.inbox import Inbox
from nanwatch.records import NamesRecord
from nanwatch.testing import example_alert, example_incident, example_step


def test_first_in_first_out(tmp_path):
    inbox = Inbox()
    items = [example_step(0), example_alert(), example_incident(tmp_path), example_step(1)]
    for item in items:
        inbox.put(item)
    assert len(inbox) == 4
    assert inbox.take_all() == items
    assert inbox.take_all() == []


def test_a_full_inbox_sheds_old_telemetry_counts_it_and_keeps_the_rest():
    inbox = Inbox(max_records=100)
    names = NamesRecord(1, ("a",), (1,), ("a",))
    inbox.put(names)
    inbox.put(example_alert(0))
    for n in range(1000):
        inbox.put(example_step(n))
    kept = inbox.take_all()
    assert kept[:2] == [names, example_alert(0)]
    steps = [item.step for item in kept[2:]]
    assert steps == list(range(1000 - len(steps), 1000))
    assert len(kept) <= 101
    assert inbox.shed == 1000 - len(steps)


def test_it_is_bounded_in_bytes_too():
    inbox = Inbox(max_bytes=100_000)
    for n in range(100):
        inbox.put(example_step(n, tensors=100))
    kept = inbox.take_all()
    assert sum(item.stats_KS.nbytes for item in kept) <= 100_000
    assert len(kept) + inbox.shed == 100

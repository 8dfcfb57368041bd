from nanwatch.agent.pace import LONGEST_S, SHORTEST_S, Every, Pace


def test_waits_grow_while_nothing_comes_and_are_short_again_when_something_does():
    pace = Pace()
    waits = [pace.after(0) for _ in range(20)]
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_S
    assert pace.after(3) == SHORTEST_S


def test_due_at_once_and_then_each_interval():
    every = Every(2.0)
    assert [t for t in (10.0, 10.5, 11.9, 12.0, 13.0, 14.5) if every.due(t)] == [10.0, 12.0, 14.5]

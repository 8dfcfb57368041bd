import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nanwatch.rules import Threshold
from nanwatch.rules.instances import Instances
from nanwatch.rules.rule import Reading

NAMES = ("a", "b", "c")


def reading(states, names=NAMES):
    bad = np.array([s == "bad" for s in states])
    known = np.array([s != "unknown" for s in states])
    return Reading(names, bad, known, np.zeros(len(names)), np.zeros(len(names)))


class OneAtATime:
    """The state machine as one would write it for a single instance."""

    def __init__(self):
        self.state, self.began, self.last_bad, self.quiet_until = "inactive", 0, 0, 0

    def advance(self, now, seen, rule):
        before = self.state
        if seen == "unknown":
            return None
        if seen == "bad":
            self.last_bad = now
            if self.state == "inactive" and now >= self.quiet_until:
                self.state, self.began = "pending", now
            if self.state == "pending" and now - self.began + 1 >= rule.for_steps:
                self.state = "firing"
            if before == "recovering":
                self.state = "firing"
                return "relapsed"
            return self.state if self.state != before else None
        if self.state == "pending":
            self.state = "inactive"
            return "resolved"
        if self.state in {"firing", "recovering"}:
            if now - self.last_bad >= rule.keep_firing_steps:
                self.state, self.quiet_until = "inactive", now + rule.cooldown_steps
                return "resolved"
            self.state = "recovering"
        return self.state if self.state != before else None


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["bad", "good", "unknown"]), min_size=3, max_size=3), max_size=40),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(0, 6),
)
def test_all_at_once_does_what_one_at_a_time_does(rows, for_steps, keep, cooldown):
    rule = Threshold(
        metric="x", above=1, for_steps=for_steps, keep_firing_steps=keep, cooldown_steps=cooldown, warmup_steps=0
    )
    together, single = Instances(), [OneAtATime() for _ in NAMES]
    for now, row in enumerate(rows):
        changes = together.advance(now, reading(row), rule)
        got = {}
        for kind in ("pending", "firing", "relapsed", "recovering", "resolved"):
            got.update({int(k): kind for k in getattr(changes, kind)} if changes else {})
        want = {k: one.advance(now, seen, rule) for k, (one, seen) in enumerate(zip(single, row, strict=True))}
        assert got == {k: kind for k, kind in want.items() if kind}


def test_instances_keep_their_state_when_tensors_come_and_go():
    rule = Threshold(metric="x", above=1)
    instances = Instances()
    instances.advance(1, reading(["good", "bad", "good"]), rule)
    instances.align(("b", "z"))
    assert instances.active == {"b"}


def test_a_snapshot_holds_only_what_is_not_at_rest():
    rule = Threshold(metric="x", above=1)
    instances = Instances()
    instances.advance(3, reading(["good", "bad", "good"]), rule)
    rows = instances.snapshot()
    assert [row[0] for row in rows] == ["b"]
    again = Instances()
    again.restore(rows)
    assert again.advance(4, reading(["good", "bad", "good"]), rule).firing.size == 0

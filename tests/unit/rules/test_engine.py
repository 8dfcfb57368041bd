import json
from typing import Any, Literal

import numpy as np
import pytest

from nanwatch.records import NamesRecord, Tick
from nanwatch.rules import Rule, RuleEngine, Spike, Threshold
from nanwatch.rules.rule import Reading


class Breaks(Rule):
    type: Literal["breaks"] = "breaks"

    def judge(self) -> Any:
        raise ZeroDivisionError("of the rule itself")


def test_a_rule_that_breaks_is_contained_and_the_others_go_on(run, a_step):
    rules = [Breaks(), Threshold(metric="grad_norm", above=10, warmup_steps=0)]
    engine = RuleEngine(rules)
    alerts = run(engine, [a_step(s, [99.0]) for s in range(5)])
    assert [a.rule for a in alerts] == ["threshold-grad_norm"]
    health = engine.health()
    assert health["breaks"]["status"] == "error"
    assert health["breaks"]["error"] == "ZeroDivisionError: of the rule itself"
    assert health["threshold-grad_norm"]["status"] == "ok"


def test_strict_raises_it():
    engine = RuleEngine([Breaks()], strict=True)
    with pytest.raises(ZeroDivisionError):
        engine.observe(Tick(0.0, True))


def test_a_metric_that_never_comes_is_said_in_health(run, a_step):
    engine = RuleEngine([Threshold(metric="val_los", above=1), Threshold(metric="lr", above=1, enabled=False)])
    run(engine, [a_step(s) for s in range(120)])
    assert engine.health()["threshold-val_los"]["status"] == "no_data"
    assert engine.health()["threshold-lr"]["status"] == "off"


def test_ranks_that_see_the_same_gradient_share_one_alert(run, a_step):
    rule = Threshold(metric="grad_norm", above=10, warmup_steps=0, keep_firing_steps=2)
    grads = [1, 50, 1, 1, 1]
    alerts = run([rule], [a_step(s, [g], rank=r) for s, g in enumerate(grads) for r in range(4)])
    assert [a.state for a in alerts] == ["firing", "recovering", "resolved"]


def test_instances_are_capped_and_the_rest_is_counted(run, a_step):
    names = tuple(f"t{k}" for k in range(10_050))
    engine = RuleEngine([Threshold(metric="grad_l2", above=10)], strict=True)
    run(engine, [NamesRecord(1, names, (1,) * len(names), ("",) * len(names)), a_step(0, [1.0] * len(names))])
    assert engine.health()["threshold-grad_l2"]["left_out"] == 50


def test_no_rule_loops_over_tensors(run, a_step):
    # given: names that count how often they are looked at one by one
    class Names(tuple):  # noqa: SLOT001
        looks = 0

        def __getitem__(self, k):
            Names.looks += 1
            return super().__getitem__(k)

    names = Names(f"t{k}" for k in range(10_000))
    rules = [Threshold(id=f"t{i}", metric="grad_absmax", above=1e9) for i in range(20)]
    rules += [Spike(id=f"s{i}", metric="grad_l2") for i in range(10)]
    engine = RuleEngine(rules, strict=True)
    run(engine, [NamesRecord(1, names, (1,) * 10_000, ("",) * 10_000), a_step(0, np.ones(10_000))])
    at_first = Names.looks
    # when
    run(engine, [a_step(s, np.ones(10_000)) for s in range(1, 4)])
    # then
    assert Names.looks == at_first


def test_a_changed_rule_begins_anew_after_a_restart(run, a_step):
    engine = RuleEngine([Threshold(metric="lr", above=0.01, warmup_steps=0)], strict=True)
    run(engine, [a_step(0)])
    state = json.loads(json.dumps(engine.snapshot()))
    changed = RuleEngine([Threshold(metric="lr", above=0.02, warmup_steps=0)], strict=True)
    assert changed.restore(state) == ["threshold-lr"]
    assert len(run(changed, [a_step(1)])) == 1


def test_a_damaged_state_costs_only_the_memory(run, a_step):
    engine = RuleEngine([Spike(metric="loss")], strict=True)
    run(engine, [a_step(s) for s in range(3)])
    state = json.loads(json.dumps(engine.snapshot()))
    state["rules"]["spike-loss"]["judges"]["0"] = {"names": 3}
    assert engine.restore(state) == ["spike-loss"]
    assert engine.restore({"version": 99}) == ["spike-loss"]
    assert run(engine, [a_step(4)]) == []


def test_readings_of_a_family_may_say_nothing(run, a_step):
    class Silent(Rule):
        type: Literal["silent"] = "silent"

        def judge(self) -> Any:
            return self

        def look(self, moment: Any) -> Reading | None:
            return None

    assert run([Silent()], [a_step(0)]) == []

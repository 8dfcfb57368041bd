"""Records in, alerts out: all rules of a run, with inhibition, containment, health and a state that can be kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nanwatch.records import Alert, Record, json_ready
from nanwatch.rules.evaluation import Evaluation
from nanwatch.rules.rule import Rule
from nanwatch.rules.series import Moment, Series
from nanwatch.shield import Shield

SNAPSHOT_VERSION = 1
QUIET_STEPS = 20
"""Finite steps after a non-finite one before rules that compare numbers speak again."""
_STEPS_UNTIL_NO_DATA = 100


class RuleEngine:
    """Evaluates rules on the records of a run. Pure: time comes in only as a `Tick`.

    A rule that breaks is contained: it is switched off after three faults, and `health()` says why.
    `strict` (tests) raises its fault instead.

    Cost: 30 rules on 10,000 tensors take some milliseconds a step; nothing loops over tensors in Python.
    """

    def __init__(self, rules: Sequence[Rule], *, strict: bool = False) -> None:
        self._series = Series()
        self._errors: dict[str, str] = {}
        enabled = [rule for rule in rules if rule.enabled]
        self._evaluations = {rule.id: Evaluation(rule) for rule in enabled}
        self._shields = {rule.id: Shield(rule.id, self._report, strict=strict) for rule in enabled}
        # What inhibits goes first, so that its word already holds for this very record.
        self._order = [r.id for r in enabled if not r.numeric], [r.id for r in enabled if r.numeric]
        self._rules = tuple(rules)
        self._poisoned_at: dict[int, int] = {}

    def observe(self, record: Record) -> list[Alert]:
        """The transitions that this record brings, usually none."""
        moment = self._series.read(record)
        if moment is None:
            return []
        if moment.poisoned:
            self._poisoned_at[moment.rank] = moment.now
        first, then = self._order
        alerts = [alert for rule_id in first for alert in self._evaluate(rule_id, moment, silent=False)]
        silent = self._inhibited(moment)
        return alerts + [alert for rule_id in then for alert in self._evaluate(rule_id, moment, silent=silent)]

    def health(self) -> dict[str, dict[str, Any]]:
        """For each rule id: status (ok, no_data, error, off), the error, readings, and instances beyond the cap."""
        return {rule.id: self._health(rule) for rule in self._rules}

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready state, for an agent that is started again: it does not announce anything twice."""
        rules = {
            rule_id: {"definition": _definition(evaluation.rule), **evaluation.snapshot()}
            for rule_id, evaluation in self._evaluations.items()
        }
        state = {
            "version": SNAPSHOT_VERSION,
            "series": self._series.snapshot(),
            "poisoned_at": list(self._poisoned_at.items()),
            "rules": rules,
        }
        return dict(json_ready(state))

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Take up a state made by `snapshot`. Returns the ids of rules that begin anew, because they changed."""
        if state.get("version") != SNAPSHOT_VERSION:
            return list(self._evaluations)
        self._series.restore(state["series"])
        self._poisoned_at = {int(rank): int(now) for rank, now in state["poisoned_at"]}
        anew = []
        for rule_id, evaluation in self._evaluations.items():
            kept = state["rules"].get(rule_id)
            if kept is None or kept["definition"] != _definition(evaluation.rule):
                anew.append(rule_id)
                continue
            try:
                evaluation.restore(kept)
            except (KeyError, TypeError, ValueError, IndexError):
                self._evaluations[rule_id] = Evaluation(evaluation.rule)
                anew.append(rule_id)
        return anew

    def _evaluate(self, rule_id: str, moment: Moment, *, silent: bool) -> list[Alert]:
        guarded = self._shields[rule_id].wrap(self._evaluations[rule_id].observe)
        return guarded(moment, self._series.now, silent=silent) or []

    def _inhibited(self, moment: Moment) -> bool:
        since = self._poisoned_at.get(moment.rank)
        if since is not None and moment.now - since < QUIET_STEPS:
            return True
        return any(e.rule.inhibits and e.inhibiting for e in self._evaluations.values())

    def _health(self, rule: Rule) -> dict[str, Any]:
        evaluation = self._evaluations.get(rule.id)
        if evaluation is None:
            return {"status": "off", "error": None, "readings": 0, "left_out": 0}
        error = self._errors.get(rule.id)
        no_data = evaluation.readings == 0 and self._series.now >= max(_STEPS_UNTIL_NO_DATA, rule.warmup_steps)
        status = "error" if error is not None else "no_data" if no_data else "ok"
        return {"status": status, "error": error, "readings": evaluation.readings, "left_out": evaluation.left_out}

    def _report(self, rule_id: str, fault: BaseException) -> None:
        self._errors[rule_id] = f"{type(fault).__name__}: {fault}"[:500]


def _definition(rule: Rule) -> str:
    return json.dumps(rule.model_dump(mode="json"), sort_keys=True)

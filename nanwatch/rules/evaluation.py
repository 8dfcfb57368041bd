"""One rule at work: its judges, the states of its instances, and which of their transitions are announced."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from nanwatch.records import Alert, AlertState
from nanwatch.rules.advice import readable
from nanwatch.rules.instances import Changes, Instances
from nanwatch.rules.rule import Finding, Judge, Reading, Rule, filled
from nanwatch.rules.series import Moment

MAX_OPEN = 5
"""Instances of a rule that are announced at the same time: the worst ones, which say how many more there are."""
MAX_RELAPSES = 5
"""Announced flaps between firing and recovering within one episode; further ones stay silent."""
_WHOLE_RUN = -1


@dataclass
class _Episode:
    """One announced instance from its begin to its end."""

    id: str
    owner: int
    finding: Finding
    relapses: int = 0


class Evaluation:
    """One rule at work. `readings` counts the moments that told it something."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.readings = 0
        self.left_out = 0
        self._judges: dict[int, Judge] = {}
        self._instances: dict[int, Instances] = {}
        self._open: dict[str, _Episode] = {}

    @property
    def inhibiting(self) -> bool:
        """Whether numeric rules have to be silent because of this one."""
        return any(name in instances.active for instances in self._instances.values() for name in self.rule.inhibits)

    def observe(self, moment: Moment, now_of_run: int, *, silent: bool) -> list[Alert]:
        """The announced transitions of this moment; `silent` lets windows learn and changes no state."""
        owner = moment.rank if self.rule.scope == "rank" else _WHOLE_RUN
        now = moment.now if self.rule.scope == "rank" else now_of_run
        if owner not in self._judges:
            self._judges[owner], self._instances[owner] = self.rule.judge(), Instances()
        judge, instances = self._judges[owner], self._instances[owner]
        reading = judge.look(moment)
        if reading is None:
            return []
        self.readings += 1
        self.left_out = reading.left_out
        warming_up = self.rule.numeric and 0 < self.rule.warmup_steps >= now
        if silent or warming_up:
            return []
        gone = [] if reading.names is instances.names else self._close_vanished(owner, reading, moment)
        changes = instances.advance(now, reading, self.rule)
        alerts = gone if changes is None else gone + self._announce(changes, owner, judge, reading, moment)
        return alerts + self._announce_incident(reading, moment, alerts)

    def snapshot(self) -> dict[str, Any]:
        """JSON-ready state."""
        return {
            "judges": {str(owner): judge.snapshot() for owner, judge in self._judges.items()},
            "instances": {str(owner): instances.snapshot() for owner, instances in self._instances.items()},
            "open": {
                name: {"id": e.id, "owner": e.owner, "relapses": e.relapses, "finding": dataclasses.asdict(e.finding)}
                for name, e in self._open.items()
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state made by `snapshot`, of the same rule."""
        for owner, kept in state["judges"].items():
            judge = self.rule.judge()
            judge.restore(kept)
            self._judges[int(owner)], self._instances[int(owner)] = judge, Instances()
        for owner, rows in state["instances"].items():
            self._instances[int(owner)].restore(rows)
        for name, e in state["open"].items():
            finding: dict[str, Any] = {**e["finding"], "fix": tuple(e["finding"]["fix"])}
            for number in ("value", "limit"):
                finding[number] = None if finding[number] is None else float(finding[number])
            self._open[name] = _Episode(e["id"], int(e["owner"]), Finding(**finding), int(e["relapses"]))

    def _announce(self, changes: Changes, owner: int, judge: Judge, reading: Reading, moment: Moment) -> list[Alert]:
        alerts = []
        for k in changes.resolved:
            alerts += self._step(owner, reading.names[k], "resolved", moment)
        for k in changes.recovering:
            alerts += self._step(owner, reading.names[k], "recovering", moment)
        for k in changes.relapsed:
            alerts += self._relapse(owner, reading.names[k], moment)
        for state, group in (("firing", changes.firing), ("pending", changes.pending)):
            for k in self._worst(group, reading):
                name = reading.names[k]
                episode = self._open.get(name)
                if episode is None and len(self._open) < MAX_OPEN:
                    self._open[name] = _Episode(
                        f"{self._fingerprint(name)}-{moment.step}", owner, judge.explain(reading, k, moment)
                    )
                elif episode is not None and episode.owner == owner:
                    episode.finding = judge.explain(reading, k, moment)
                else:
                    continue
                alerts.append(self._alert(name, "firing" if state == "firing" else "pending", moment))
        return alerts

    def _worst(self, group: Any, reading: Reading) -> list[int]:
        """Those of the group that may be announced, the furthest from the limit first."""
        if group.size > MAX_OPEN:
            with np.errstate(all="ignore"):
                excess = np.abs(reading.values_K[group] - reading.limits_K[group])
            worst = np.argsort(-np.nan_to_num(excess, nan=-1.0, posinf=np.finfo(np.float64).max), kind="stable")
            opened = [int(k) for k in group if reading.names[k] in self._open] if self._open else []
            group = [*opened, *group[worst[:MAX_OPEN]]]
        return list(dict.fromkeys(int(k) for k in group))

    def _step(self, owner: int, name: str, state: AlertState, moment: Moment) -> list[Alert]:
        episode = self._open.get(name)
        if episode is None or episode.owner != owner or (state == "recovering" and episode.relapses >= MAX_RELAPSES):
            return []
        alert = self._alert(name, state, moment)
        if state == "resolved":
            del self._open[name]
        return [alert]

    def _relapse(self, owner: int, name: str, moment: Moment) -> list[Alert]:
        episode = self._open.get(name)
        if episode is None or episode.owner != owner or episode.relapses >= MAX_RELAPSES:
            return []
        episode.relapses += 1
        return [self._alert(name, "firing", moment)]

    def _close_vanished(self, owner: int, reading: Reading, moment: Moment) -> list[Alert]:
        stays = set(reading.names)
        gone = [name for name, episode in self._open.items() if episode.owner == owner and name not in stays]
        return [alert for name in gone for alert in self._step(owner, name, "resolved", moment)]

    def _announce_incident(self, reading: Reading, moment: Moment, alerts: list[Alert]) -> list[Alert]:
        if reading.incident_id is None:
            return []
        already = {alert.id for alert in alerts}
        told = []
        for name, episode in self._open.items():
            if name in self.rule.inhibits and episode.finding.incident_id is None and episode.id not in already:
                episode.finding = dataclasses.replace(episode.finding, incident_id=reading.incident_id)
                told.append(self._alert(name, "firing", moment))
        return told

    def _fingerprint(self, name: str) -> str:
        return hashlib.sha256(f"{self.rule.id}\0{name}".encode()).hexdigest()[:16]

    def _alert(self, name: str, state: AlertState, moment: Moment) -> Alert:
        episode = self._open[name]
        finding = episode.finding
        severity = finding.severity or self.rule.severity
        alert = Alert(
            rule=self.rule.id,
            type=self.rule.type,
            state=state,
            severity=severity,
            id=episode.id,
            fingerprint=self._fingerprint(name),
            metric=finding.metric,
            step=moment.step,
            rank=moment.rank,
            summary=finding.summary,
            value=finding.value,
            limit=finding.limit,
            module=finding.module,
            param=finding.param,
            cause=finding.cause,
            fix=finding.fix,
            incident_id=finding.incident_id,
            step_total=moment.step_total,
        )
        return dataclasses.replace(alert, summary=_in_words(self.rule, alert))


def _in_words(rule: Rule, alert: Alert) -> str:
    text = alert.summary
    if rule.summary is not None:
        values = {
            "rule": rule.id,
            "metric": alert.metric,
            "value": "unknown" if alert.value is None else readable(alert.value),
            "limit": "none" if alert.limit is None else readable(alert.limit),
            "step": str(alert.step_total),
            "rank": str(alert.rank),
            "module": alert.module or "",
            "param": alert.param or "",
            "severity": alert.severity,
        }
        text = filled(rule.summary, values)
    if rule.summary is not None and alert.state in {"resolved", "recovering"}:
        text = f"{rule.id} on {alert.metric}"  # the user's sentence speaks of the step at which it fired
    if alert.state == "resolved":
        return f"Over since step {alert.step_total}. It was: {text}"
    if alert.state == "recovering":
        return f"Back to normal at step {alert.step_total}, not yet for long. It was: {text}"
    return text

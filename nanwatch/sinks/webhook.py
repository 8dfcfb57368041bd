"""The webhook sink: incidents, alerts and bad ends, each delivered at least once with the same id, and paged once."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nanwatch.errors import SinkError
from nanwatch.records import Alert, IncidentRecord, Record, RunRecord, Severity, StepRecord
from nanwatch.sinks.notification import alert_data, died_data, fitted, incident_data, links
from nanwatch.sinks.outbox import Notification, Outbox, notification_id
from nanwatch.sinks.sink import FinishedIncident, RunEnd
from nanwatch.sinks.slack import HOSTS as SLACK_HOSTS
from nanwatch.sinks.slack import slack_message
from nanwatch.sinks.standard_webhooks import check_secret, headers
from nanwatch.sinks.webhook_client import DEADLINE_S, Answer, post
from nanwatch.sinks.webhook_url import check_url

log = logging.getLogger("nanwatch")

INCIDENT_CREATED = "nanwatch.incident.created"
ALERT_FIRING = "nanwatch.alert.firing"
ALERT_RESOLVED = "nanwatch.alert.resolved"
RUN_STALLED = "nanwatch.run.stalled"
RUN_DIED = "nanwatch.run.died"

HOLD_S = 15.0
"""How long an alert on a non-finite step waits for the incident that says the same and more."""
INCIDENT_WAIT_S = 120.0
"""How long it waits once the trainer said that an incident comes: the bundle takes its time."""
SAME_ONSET_STEPS = 20
RETRY_DELAYS_S = (5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400)
"""Seconds after the first, second, ... failed attempt; after the last one it is given up. The schedule is that of
Standard Webhooks."""
MAX_RETRY_AFTER_S = 600.0
_TRY_AGAIN = {408, 425, 429}
_GOOD_ENDS = {"finished", "detached", "stopped"}
_LEVELS: dict[Severity, int] = {"info": 0, "warning": 1, "critical": 2}


class WebhookSink:
    """Posts what people have to know to one URL, signed as Standard Webhooks 1.0 asks, or as a Slack message.

    One notification an incident: the alert on its non-finite step is held back and gives way to it.
    `mlflow_facts` is asked for `run_id` and `experiment_id` at the first attempt, for the links.

    Raises: SetupError for a URL or a secret that cannot be used.
    """

    name = "webhook"

    def __init__(
        self,
        url: str,
        secret: str | None,
        outbox: Path,
        run: RunRecord,
        ui_url: str | None,
        mlflow_facts: Callable[[], Mapping[str, Any]],
        *,
        min_severity: Severity = "warning",
        deadline_s: float = DEADLINE_S,
        clock: Callable[[], float] = time.time,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._endpoint = check_url(url)
        self._key = check_secret(secret)
        self._outbox = Outbox(outbox)
        self._run = run
        self._ui_url = ui_url
        self._mlflow_facts = mlflow_facts
        self._min_level = _LEVELS[min_severity]
        self._deadline_s = deadline_s
        self._clock = clock
        self._uniform = uniform
        self._last: StepRecord | None = None
        self._tried_at_the_end: set[str] = set()
        self._gone = False
        self._last_error: str | None = None

    def observe(self, record: Record) -> None:
        if isinstance(record, StepRecord):
            self._last = record
        elif isinstance(record, IncidentRecord):
            for entry in self._held(record.step):
                later = self._clock() + INCIDENT_WAIT_S
                self._outbox.update(dataclasses.replace(entry, next_attempt_unix_s=later))

    def alert(self, alert: Alert) -> None:
        firing_id = self._id(ALERT_FIRING, alert.id)
        if alert.state == "resolved":
            self._resolved(alert, firing_id)
        elif alert.state == "firing" and _LEVELS[alert.severity] >= self._min_level:
            kind = RUN_STALLED if alert.type == "heartbeat" else ALERT_FIRING
            about = {"step": alert.step, "rank": alert.rank}
            # Its sibling on the loss scale speaks of skipped steps, for which no incident comes.
            waits = alert.type == "nonfinite" and alert.metric != "loss_scale"
            teller = self._incident_near(alert.step) if waits else None
            entry = self._entry(firing_id, kind, alert_data(self._run, alert, self._last), about)
            if teller is None:
                wait_s = 0.0 if not waits else HOLD_S if alert.incident_id is None else INCIDENT_WAIT_S
                due = entry.next_attempt_unix_s + wait_s
                self._outbox.put(dataclasses.replace(entry, waits_for_incident=waits, next_attempt_unix_s=due))
            elif self._outbox.state(firing_id) is None:
                self._give_way(entry, teller)

    def incident(self, finished: FinishedIncident) -> None:
        incident = finished.incident
        data = incident_data(self._run, incident, self._last)
        if _LEVELS[data["severity"]] < self._min_level:
            return
        about = {"step": incident.step, "rank": incident.rank, "incident": incident.id}
        entry = self._entry(self._id(INCIDENT_CREATED, incident.id), INCIDENT_CREATED, data, about)
        # All ranks of a launch see a bad step at once; the first bundle that is whole tells of it.
        elsewhere = [
            e for e in self._incidents() if e.about["step"] == incident.step and e.about["rank"] != incident.rank
        ]
        if elsewhere and self._outbox.state(entry.id) is None:
            self._give_way(entry, elsewhere[0])
        else:
            self._outbox.put(entry)
        for held in self._held(incident.step):
            self._give_way(held, entry)

    def ship(self, now_unix_s: float, *, final: bool) -> bool:
        if self._gone:
            return True
        for entry in self._outbox.pending():
            if self._is_due(entry, now_unix_s, final=final):
                if final:
                    self._tried_at_the_end.add(entry.id)
                self._deliver(entry, now_unix_s)
        return not self._outbox.pending()

    def close(self, end: RunEnd) -> None:
        if end.reason in _GOOD_ENDS:
            return
        message_id = self._id(RUN_DIED, str(self._run.pid))
        data = died_data(self._run, end, self._last)
        self._outbox.put(self._entry(message_id, RUN_DIED, data, {}))
        entry = self._outbox.get(message_id)
        if entry is not None and self._outbox.state(message_id) == "pending" and not self._gone:
            self._deliver(entry, self._clock())

    def state(self) -> dict[str, Any]:
        counts = self._outbox.counts()
        given_way = sum(1 for e in self._outbox.all() if e.about.get("told_by"))
        return {
            "endpoint": str(self._endpoint),
            "queued": counts["pending"],
            "sent": counts["sent"] - given_way,
            "dropped": {"refused": counts["dead"], "outbox_full": self._outbox.refused},
            "folded": given_way,
            "disabled": self._gone,
            "error": self._last_error,
        }

    def _resolved(self, alert: Alert, firing_id: str) -> None:
        firing = self._outbox.get(firing_id)
        if firing is None or firing.about.get("told_by"):
            return
        entry = self._entry(
            self._id(ALERT_RESOLVED, alert.id), ALERT_RESOLVED, alert_data(self._run, alert, self._last), {}
        )
        self._outbox.put(dataclasses.replace(entry, follows=firing_id))

    def _entry(self, message_id: str, kind: str, data: dict[str, Any], about: dict[str, Any]) -> Notification:
        now = self._clock()
        timestamp = dt.datetime.fromtimestamp(now, dt.UTC).isoformat(timespec="milliseconds")
        body = {"type": kind, "timestamp": timestamp.replace("+00:00", "Z"), "data": {**data, "links": {}}}
        return Notification(message_id, kind, fitted(body), next_attempt_unix_s=now, about=about)

    def _id(self, *what: str) -> str:
        return notification_id(self._run.name, *what)

    def _held(self, step: int) -> list[Notification]:
        return [
            e
            for e in self._outbox.pending()
            if e.waits_for_incident and abs(e.about["step"] - step) <= SAME_ONSET_STEPS
        ]

    def _incidents(self) -> list[Notification]:
        return [e for e in self._outbox.all() if e.type == INCIDENT_CREATED]

    def _incident_near(self, step: int) -> Notification | None:
        return next((e for e in self._incidents() if abs(e.about["step"] - step) <= SAME_ONSET_STEPS), None)

    def _give_way(self, entry: Notification, teller: Notification) -> None:
        told = {**entry.about, "told_by": teller.id}
        self._outbox.settle(dataclasses.replace(entry, about=told, outcome=f"not sent: {teller.id} tells it"), "sent")

    def _is_due(self, entry: Notification, now_unix_s: float, *, final: bool) -> bool:
        if entry.follows is not None and self._outbox.state(entry.follows) == "pending":
            return False
        return entry.next_attempt_unix_s <= now_unix_s or (final and entry.id not in self._tried_at_the_end)

    def _deliver(self, entry: Notification, now_unix_s: float) -> None:
        if entry.follows is not None and self._outbox.state(entry.follows) == "dead":
            self._outbox.settle(dataclasses.replace(entry, outcome="what it ends was never delivered"), "dead")
            return
        if entry.attempts == 0:
            entry = self._with_links(entry)
            self._outbox.update(entry)
        answer = self._post(entry, now_unix_s)
        entry = dataclasses.replace(entry, attempts=entry.attempts + 1, outcome=_in_words(answer))
        if 200 <= answer.status < 300:
            self._last_error = None
            self._outbox.settle(entry, "sent")
            return
        self._last_error = f"{self._endpoint}: {entry.outcome}"
        given_up = entry.attempts > len(RETRY_DELAYS_S)
        if answer.forbidden or given_up or (400 <= answer.status < 500 and answer.status not in _TRY_AGAIN):
            log.warning("webhook %s was not delivered to %s and is kept in outbox/dead", entry.type, self._last_error)
            self._outbox.settle(entry, "dead")
            if answer.status == 410:
                self._gone = True
                raise SinkError(f"{self._endpoint} is gone (410): no more webhooks to it", permanent=True)
            return
        self._outbox.update(dataclasses.replace(entry, next_attempt_unix_s=now_unix_s + self._delay_s(entry, answer)))
        raise SinkError(f"webhook to {self._last_error}", retry_after_s=answer.retry_after_s)

    def _post(self, entry: Notification, now_unix_s: float) -> Answer:
        content: Any = slack_message(entry.body) if self._endpoint.host in SLACK_HOSTS else entry.body
        payload = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(
            errors="replace"
        )
        signed = headers(self._key, entry.id, now_unix_s, payload)
        agent = {"user-agent": f"nanwatch/{version('nanwatch')}"}
        return post(self._endpoint, payload, {**signed, **agent}, now_unix_s, self._deadline_s)

    def _with_links(self, entry: Notification) -> Notification:
        facts = self._mlflow_facts()
        data = dict(entry.body["data"])
        data["links"] = links(self._ui_url, facts, data.get("incident"))
        data["run"] = {**data["run"], "id": facts.get("run_id")}
        return dataclasses.replace(entry, body=fitted({**entry.body, "data": data}))

    def _delay_s(self, entry: Notification, answer: Answer) -> float:
        if answer.retry_after_s is not None:
            return min(max(answer.retry_after_s, 1.0), MAX_RETRY_AFTER_S)
        return RETRY_DELAYS_S[entry.attempts - 1] * self._uniform(0.8, 1.2)


def _in_words(answer: Answer) -> str:
    if answer.status == 0:
        return answer.text
    if 300 <= answer.status < 400:
        return f"{answer.status}: redirects are not followed, give the final URL"
    return f"{answer.status} {answer.text}".strip()

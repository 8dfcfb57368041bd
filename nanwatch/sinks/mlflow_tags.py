"""The tags of a run: short facts that a list of runs can be filtered by, each small enough for a chip."""

from __future__ import annotations

from nanwatch.records import STATUSES, Incident, Origin
from nanwatch.sinks.sink import RunEnd

CHIP_LENGTH = 30

_HARMLESS_ENDS = {"finished", "detached"}


class StatusTags:
    """What the tags say; `values` only ever gets graver."""

    def __init__(self, version: str | None) -> None:
        self.values: dict[str, str] = {"nanwatch.status": "ok"}
        if version:
            self.values["nanwatch.version"] = version

    def restore(self, sent: dict[str, str]) -> None:
        """Take up what an earlier agent said of the same run."""
        status = sent.get("nanwatch.status")
        self.values = {**sent, **self.values}
        if status in STATUSES:
            self.raise_to(status)

    def raise_to(self, status: str) -> None:
        if STATUSES.index(status) > STATUSES.index(self.values["nanwatch.status"]):
            self.values["nanwatch.status"] = status

    def incident(self, incident: Incident) -> None:
        """The first incident names origin and cause: later ones are mostly its consequences."""
        self.raise_to("incident")
        self.first_bad_step(incident.step_total)
        if incident.origin is not None:
            self.values.setdefault("nanwatch.origin", origin_chip(incident.origin))
        self.values.setdefault("nanwatch.cause", incident.cause.label[:CHIP_LENGTH])

    def first_bad_step(self, step_total: int) -> None:
        self.raise_to("incident")
        self.values.setdefault("nanwatch.first_incident_step", str(step_total))

    def end(self, end: RunEnd) -> None:
        self.values["nanwatch.end_reason"] = end.reason[:CHIP_LENGTH]
        if end.reason not in _HARMLESS_ENDS:
            self.raise_to("stopped" if end.reason == "stopped" else "crashed")


def origin_chip(origin: Origin) -> str:
    """The origin in 30 characters: operation and the end of the module's path, which tells most."""
    op = (origin.op or origin.param or origin.phase).removeprefix("aten::")[:CHIP_LENGTH]
    room = CHIP_LENGTH - len(op) - len(" in ")
    if not origin.module or room < 4:
        return op
    module = origin.module if len(origin.module) <= room else "…" + origin.module[1 - room :]
    return f"{op} in {module}"

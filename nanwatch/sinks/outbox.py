"""Notifications on disk: one JSON file each, in `pending/`, `sent/` or `dead/`. No file holds a URL or a secret.

A file appears whole or not at all (written aside, fsync, rename), so a crash loses nothing and sends at most twice,
with the same id. Source: Maildir, https://cr.yp.to/proto/maildir.html
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanwatch.bundle.private_file import sync_folder, write_private

log = logging.getLogger("nanwatch")

State = Literal["pending", "sent", "dead"]
STATES: tuple[State, ...] = ("pending", "sent", "dead")
MAX_PENDING = 1000
SCHEMA = "nanwatch.notification/1"


@dataclass(frozen=True)
class Notification:
    """One notification and how far its delivery is. Its file is this as JSON."""

    id: str
    type: str
    body: dict[str, Any]
    """`{type, timestamp, data}`; not changed any more after the first attempt."""
    next_attempt_unix_s: float
    number: int = 0
    """Order in which they were put in."""
    attempts: int = 0
    waits_for_incident: bool = False
    """Held back, because an incident that is about to come says the same and more."""
    follows: str | None = None
    """Id of the notification that has to be delivered before."""
    about: dict[str, Any] = field(default_factory=dict)
    """What tells duplicates apart: rank, step, incident."""
    outcome: str | None = None
    """The last failure, or why it was not sent."""
    schema: str = SCHEMA


def notification_id(*what: str) -> str:
    """The same id for the same thing, also in an agent that was started again."""
    return "msg_" + hashlib.sha256("\0".join(what).encode()).hexdigest()[:32]


class Outbox:
    """The notifications of a run. One process owns it at a time.

    Raises: OSError, where the disk does.
    """

    def __init__(self, folder: Path) -> None:
        self.refused = 0
        self._folder = folder
        for state in STATES:
            (folder / state).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._known: dict[str, State] = {}
        self._entries: dict[str, Notification] = {}
        for state in STATES:
            for entry in self._load(state):
                self._known[entry.id], self._entries[entry.id] = state, entry
        for entry in self._load("pending"):
            if self._known[entry.id] != "pending":  # a crash between the two halves of `settle`
                self._file(entry, "pending").unlink()

    def pending(self) -> list[Notification]:
        """What is not delivered yet, oldest first."""
        waiting = [e for e in self._entries.values() if self._known[e.id] == "pending"]
        return sorted(waiting, key=lambda e: e.number)

    def all(self) -> list[Notification]:
        """Everything of this run, delivered or not."""
        return list(self._entries.values())

    def state(self, message_id: str) -> State | None:
        """Where a notification is; None if there is none of this id."""
        return self._known.get(message_id)

    def get(self, message_id: str) -> Notification | None:
        return self._entries.get(message_id)

    def counts(self) -> dict[State, int]:
        """How many there are in each state."""
        states = list(self._known.values())
        return {state: states.count(state) for state in STATES}

    def put(self, entry: Notification) -> bool:
        """Take in a new notification. False for one that is known, in whatever state, or when there are too many."""
        if entry.id in self._known:
            return False
        if self.counts()["pending"] >= MAX_PENDING:
            self.refused += 1
            return False
        number = max((e.number for e in self._entries.values()), default=0) + 1
        self.update(dataclasses.replace(entry, number=number))
        return True

    def update(self, entry: Notification) -> None:
        """Keep a change of a pending notification."""
        self._write(entry, "pending")
        self._known[entry.id], self._entries[entry.id] = "pending", entry

    def settle(self, entry: Notification, state: Literal["sent", "dead"]) -> None:
        """Its delivery is over."""
        self._write(entry, state)
        # Only now: a crash in between leaves both files, and the final one wins.
        self._file(entry, "pending").unlink(missing_ok=True)
        self._known[entry.id], self._entries[entry.id] = state, entry

    def _load(self, state: State) -> Iterator[Notification]:
        names = {f.name for f in dataclasses.fields(Notification)}
        for path in sorted((self._folder / state).iterdir()):
            if path.suffix == ".part":
                path.unlink(missing_ok=True)  # written aside by a process that died
            if path.suffix != ".json":
                continue
            try:
                data = json.loads(path.read_text())
                yield Notification(**{k: v for k, v in data.items() if k in names})
            except (OSError, ValueError, TypeError, AttributeError) as e:
                log.warning("notification %s cannot be read and is set aside: %s", path.name, type(e).__name__)
                if state == "pending":
                    path.rename(self._folder / "dead" / f"{path.name}.unreadable")

    def _file(self, entry: Notification, state: State) -> Path:
        return self._folder / state / f"{entry.id}.json"

    def _write(self, entry: Notification, state: State) -> None:
        path = self._file(entry, state)
        write_private(path, json.dumps(dataclasses.asdict(entry), allow_nan=False, indent=1).encode())
        sync_folder(path.parent)

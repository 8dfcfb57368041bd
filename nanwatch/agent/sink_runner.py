"""One sink in a thread of its own: a hanging server delays neither rules nor other sinks nor acknowledgements."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from nanwatch.agent.backoff import Backoff
from nanwatch.agent.inbox import Inbox, Item
from nanwatch.errors import SinkError
from nanwatch.records import Alert
from nanwatch.sinks.sink import FinishedIncident, RunEnd, Sink

log = logging.getLogger("nanwatch.agent")

INTERVAL_S = 1.0
INCOMPLETE_S = 0.5
"""Between two final attempts that went well and left something for later."""
FAULT_LIMIT = 5
"""After so many faults of the sink itself in a row (not of the other side), it is switched off."""


class SinkRunner:
    """Builds the sink with `make` in its thread and calls its methods from there only.

    A permanent SinkError, or repeated faults of the sink's own code, switch it off; what comes then is counted.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], Sink],
        *,
        uniform: Callable[[float, float], float],
        interval_s: float = INTERVAL_S,
    ) -> None:
        self.name = name
        self._make = make
        self._interval_s = interval_s
        self._backoff = Backoff(uniform)
        self._inbox = Inbox()
        self._wake = threading.Condition()
        self._end: RunEnd | None = None
        self._deadline_s: float | None = None
        self._disabled: str | None = None
        self._unsent = 0
        self._faults = 0
        self._error: str | None = None
        self._state: dict[str, Any] = {}
        self._thread = threading.Thread(target=self._run, name=f"sink-{name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, item: Item) -> None:
        """Hand over a record, an alert or a finished incident; returns at once."""
        with self._wake:
            if self._disabled is not None:
                self._unsent += 1
                return
            self._inbox.put(item)
            if isinstance(item, Alert | FinishedIncident):
                self._wake.notify()

    def finish(self, end: RunEnd | None, deadline_s: float) -> None:
        """Ask for the final shipping until `deadline_s` (monotonic), then `close(end)`; without an end no close.

        Returns at once; `join` waits for it.
        """
        with self._wake:
            self._end, self._deadline_s = end, deadline_s
            self._wake.notify()

    def join(self, timeout_s: float) -> bool:
        """True when the thread has come to its end."""
        self._thread.join(max(timeout_s, 0.0))
        return not self._thread.is_alive()

    def state(self) -> dict[str, Any]:
        """The sink's own state as of its last turn, with what the runner knows."""
        with self._wake:
            mine: dict[str, Any] = {
                "waiting": len(self._inbox),
                "dropped_inbox_full": self._inbox.shed,
                "faults": self._faults,
            }
            if self._disabled is not None:
                mine |= {"disabled": self._disabled, "dropped_disabled": self._unsent}
            elif self._error is not None:
                mine["error"] = self._error
            return {**self._state, **{f"agent_{key}": value for key, value in mine.items()}}

    def _run(self) -> None:
        try:
            sink = self._make()
        except Exception as e:
            log.exception("sink %s cannot be set up", self.name)
            self._disable(f"{type(e).__name__}: {e}")
            return
        log.info("sink %s is ready", self.name)
        due_s = time.monotonic()
        while self._disabled is None:
            final = self._wait(due_s)
            urgent = self._take_in(sink)
            if final:
                self._finish(sink)
                return
            if urgent and self._error is None:
                due_s = time.monotonic()
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + (self._ship(sink, final=False) or self._interval_s)

    def _wait(self, due_s: float) -> bool:
        """Sleep until something is to be done; True when it is the end."""
        with self._wake:
            if self._deadline_s is None:
                self._wake.wait(max(due_s - time.monotonic(), 0.0))
            return self._deadline_s is not None

    def _take_in(self, sink: Sink) -> bool:
        """Give the sink what has come; whether something of it should not wait."""
        with self._wake:
            items = self._inbox.take_all()
        for item in items:
            try:
                if isinstance(item, Alert):
                    sink.alert(item)
                elif isinstance(item, FinishedIncident):
                    sink.incident(item)
                else:
                    sink.observe(item)
            except Exception:
                self._fault(f"sink {self.name} failed on a {type(item).__name__}")
        self._refresh(sink)
        return any(isinstance(item, Alert | FinishedIncident) for item in items)

    def _ship(self, sink: Sink, *, final: bool) -> float | None:
        return self._attempt(sink, lambda: sink.ship(time.time(), final=final) or not final)

    def _close(self, sink: Sink, end: RunEnd) -> float | None:
        def close() -> bool:
            sink.close(end)
            return True

        return self._attempt(sink, close)

    def _attempt(self, sink: Sink, call: Callable[[], bool]) -> float | None:
        """None when it went well and is complete, else the seconds after which to try again."""
        try:
            complete = call()
        except SinkError as e:
            return self._refused(e)
        except Exception as e:
            self._fault(f"sink {self.name} failed")
            if self._faults >= FAULT_LIMIT:
                self._disable(f"{type(e).__name__}: {e}")
            return self._backoff.delay_s(e)
        else:
            if self._error is not None:
                log.info("sink %s delivers again", self.name)
            self._backoff.reset()
            self._error, self._faults = None, 0
            return None if complete else INCOMPLETE_S
        finally:
            self._refresh(sink)

    def _refused(self, error: SinkError) -> float:
        if error.permanent:
            self._disable(str(error))
            return self._interval_s
        delay_s = self._backoff.delay_s(error)
        level = logging.WARNING if self._error is None else logging.DEBUG
        log.log(level, "sink %s: %s; trying again in %.1f s", self.name, error, delay_s)
        self._error = str(error)
        return delay_s

    def _finish(self, sink: Sink) -> None:
        self._until_deadline(sink, lambda: self._ship(sink, final=True))
        end = self._end
        if end is not None:
            self._until_deadline(sink, lambda: self._close(sink, end))

    def _until_deadline(self, sink: Sink, attempt: Callable[[], float | None]) -> None:
        """At least one attempt, and more until one is complete or the time is up."""
        while self._disabled is None:
            delay_s = attempt()
            if delay_s is None or time.monotonic() + delay_s >= (self._deadline_s or 0.0):
                return
            time.sleep(delay_s)
            self._take_in(sink)

    def _fault(self, message: str) -> None:
        self._faults += 1
        if self._faults <= FAULT_LIMIT:
            log.error(message, exc_info=True)  # noqa: LOG014  # only called where an exception is handled

    def _disable(self, reason: str) -> None:
        with self._wake:
            self._disabled = reason
            self._unsent += len(self._inbox.take_all())
        log.error("sink %s is switched off: %s", self.name, reason)

    def _refresh(self, sink: Sink) -> None:
        try:
            state = sink.state()
        except Exception:
            self._fault(f"sink {self.name} failed to tell its state")
            return
        with self._wake:
            self._state = state

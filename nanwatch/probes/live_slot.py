"""Where the post-mortem hangs in its trace of the training itself; empty but for a few steps after an incident.

A step that does not repeat cannot be explained by a replay. The steps that follow are then traced while they run
(postmortem/live.py), from the first forward of the model until its backward has returned.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from nanwatch.probes.flight_recorder import Call, FlightRecorder


class LiveTrace(Protocol):
    """A trace that is armed. None of these raises."""

    @property
    def has_trace(self) -> bool: ...

    def begin(self, call: Call) -> None:
        """The first forward of a backward to come is about to run."""

    def leave(self) -> None:
        """The backward has returned: record no more, and keep what was recorded."""

    def forget(self) -> None:
        """All has been made of it that can be."""

    def disarm(self) -> None: ...


class LiveSlot:
    """Holds at most one armed trace, and tells it what the training does."""

    def __init__(self, recorder: FlightRecorder) -> None:
        self.armed: LiveTrace | None = None
        self._recorder = recorder

    @property
    def has_trace(self) -> bool:
        return self.armed is not None and self.armed.has_trace

    def entered(self, call: Call) -> None:
        """An entry module is about to run."""
        if self.armed is not None and call.index == self._recorder.current.first_entry:
            self.armed.begin(call)

    @contextmanager
    def over(self) -> Iterator[None]:
        """Around the verdict on a backward that has returned."""
        armed = self.armed
        if armed is None:
            yield
            return
        armed.leave()
        try:
            yield
        finally:
            armed.forget()

    def drop(self) -> None:
        """No backward will come for what was recorded: a forward has raised."""
        with self.over():
            pass

    def disarm(self) -> None:
        """The program does what a trace must not be under: a model is scripted or detached, a process forked."""
        if self.armed is not None:
            self.armed.disarm()

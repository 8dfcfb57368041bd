"""What a post-mortem has found out, as far as it got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nanwatch.postmortem.replay import Outcome, Plan
from nanwatch.postmortem.tracer import Event
from nanwatch.records import Cause, Origin, PathNode, Replay


@dataclass
class Findings:
    """The verdict always; the rest where the replay gave it."""

    verdict: Replay
    origin: Origin | None = None
    cause: Cause | None = None
    path: tuple[PathNode, ...] = ()
    made: Plan | None = None
    events: tuple[Event, ...] = ()
    event: Event | None = None
    chain: tuple[Event, ...] = ()
    calls: Mapping[str, int] = field(default_factory=dict)
    optimizer_state: dict[str, Any] | None = None
    scope: tuple[str, ...] = ()
    step: int | None = None
    """The optimizer step at which the value was made, where that was earlier than it was seen."""
    needs_others: bool = False
    """The replay could not go on without the other ranks."""
    outcome: Outcome | None = None
    """What the replay gave, where it came to its end."""
    repeats_on_cpu: bool = False
    """Two replays that did not show the value gave the same bits."""
    live: bool = False
    """Origin, cause and path are from a trace of the training itself."""


def failed(why: str, attempts: int = 0) -> Findings:
    """Nothing could be run."""
    return Findings(Replay("failed", attempts, False, 0.0, why))

"""The ids of the samples in a batch: from the user's `sample_ids=` function, else from the DataLoader's sampler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nanwatch.postmortem.replay import batch_size_of, leaves_of, resolve
from nanwatch.probes.flight_recorder import Call
from nanwatch.probes.samples import SampleProbe

log = logging.getLogger("nanwatch")


class SampleIds:
    """Asked after an incident only."""

    def __init__(self, probe: SampleProbe, given: Callable[..., Any] | None) -> None:
        self._probe = probe
        self._given = given

    def of(self, calls: Sequence[Call]) -> tuple[Any, ...]:
        """Ids row by row: numbers or strings. Empty where they are not known."""
        entry = next((c for c in calls if c.is_entry), None)
        if entry is None:
            return ()
        if self._given is not None:
            return self._ask(entry)
        ids = self._probe.ids_of([t for c in calls for t in leaves_of(c)], batch_size_of(calls))
        return tuple(map(_plain, ids or ()))

    def _ask(self, entry: Call) -> tuple[Any, ...]:
        assert self._given is not None
        try:
            found = self._given(*resolve(entry.args, {}), **resolve(entry.kwargs, {}))
            return tuple(map(_plain, () if found is None else found))
        except Exception as e:
            log.warning("nanwatch: sample_ids=%r raised %s: %s", self._given, type(e).__name__, e)
            return ()


def _plain(value: Any) -> Any:
    """A number or a string, as JSON takes it."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else str(value.tolist())
    return value if isinstance(value, int | str) else int(value) if hasattr(value, "__index__") else str(value)

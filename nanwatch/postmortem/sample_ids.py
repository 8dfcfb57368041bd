"""The ids of the samples in a batch: from the user's `sample_ids=` function, else from the DataLoader's sampler."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from nanwatch.postmortem.replay import batch_size_of, resolve
from nanwatch.probes.flight_recorder import Call, FlightRecorder, Ref, leaves_in, refs_of
from nanwatch.probes.samples import SampleProbe

log = logging.getLogger("nanwatch")


class SampleIds:
    """Asked after an incident only."""

    def __init__(self, probe: SampleProbe, recorder: FlightRecorder, given: Callable[..., Any] | None) -> None:
        self._probe = probe
        self._recorder = recorder
        self._given = given

    def of(self, calls: Sequence[Call], roots: Sequence[Ref] = ()) -> tuple[Any, ...]:
        """Ids row by row: numbers or strings. Empty where they are not known.

        roots:  where the loss is: a call that it does not depend on is no part of its batch.
        """
        if roots:
            calls = _behind(calls, roots)
        entry = next((c for c in calls if c.is_entry), None)
        if entry is None:
            return ()
        if self._given is not None:
            return self._ask(entry)
        ids = self._probe.ids_of(self._made_of(calls), batch_size_of(calls), entry.index)
        return tuple(map(_plain, ids or ()))

    def _made_of(self, calls: Sequence[Call]) -> list[torch.Tensor]:
        """The tensors that the calls got from outside, and those that these were made of (moved, normalised)."""
        recorded = {c.index: c for c in self._recorder.calls()}
        found: list[torch.Tensor] = []
        todo, seen = list(calls), {c.index for c in calls}
        while todo:
            call = todo.pop()
            leaves = leaves_in(call)
            found += [leaf.tensor for leaf in leaves]
            makers = {leaf.maker[0] for leaf in leaves if leaf.maker is not None} | set(refs_of(call))
            new = [recorded[i] for i in makers - seen if i in recorded]
            seen |= {c.index for c in new}
            todo += new
        return found

    def _ask(self, entry: Call) -> tuple[Any, ...]:
        assert self._given is not None
        try:
            found = self._given(*resolve(entry.args, {}), **resolve(entry.kwargs, {}))
            return tuple(map(_plain, () if found is None else found))
        except Exception as e:
            log.warning("nanwatch: sample_ids=%r raised %s: %s", self._given, type(e).__name__, e)
            return ()


def _behind(calls: Sequence[Call], roots: Sequence[Ref]) -> list[Call]:
    """The calls that the roots depend on: beside them a replay runs others, for what they do to buffers."""
    by_index = {c.index: c for c in calls}
    todo = [r.index for r in roots]
    needed: set[int] = set()
    while todo:
        index = todo.pop()
        if index not in needed and index in by_index:
            needed.add(index)
            todo += refs_of(by_index[index])
    return [c for c in calls if c.index in needed]


def _plain(value: Any) -> Any:
    """A number or a string, as JSON takes it."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else str(value.tolist())
    return value if isinstance(value, int | str) else int(value) if hasattr(value, "__index__") else str(value)

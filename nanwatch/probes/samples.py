"""Which samples a batch is made of: the indices that a DataLoader's sampler gave for it.

The loader asks its sampler ahead of time and hands batches out in the order of asking, so a queue for each iterator
ties the two together. A batch is recognised by its tensors; where the program has made others of them unseen, by its
size and by being the last one that was handed out before the model was called.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import dataloader

from nanwatch.probes.flight_recorder import FlightRecorder, tensors_in
from nanwatch.probes.outside import OutsideRecorder
from nanwatch.probes.owner import Owner
from nanwatch.probes.patching import Patch
from nanwatch.shield import Shield

_KEPT = 8
_MAX_TENSORS = 16


@dataclass(frozen=True, slots=True)
class _Batch:
    """What a loader has handed out."""

    ids: list[Any]
    references: list[weakref.ref[torch.Tensor]]
    handed_out: int
    """Number that stands between those of the recorded calls before and after."""


class SampleProbe:
    """Owns the patches of torch's DataLoader iterators."""

    def __init__(self, outside: OutsideRecorder, recorder: FlightRecorder, owner: Owner, shield: Shield) -> None:
        self.paused = False
        self._outside = outside
        self._recorder = recorder
        self._owner = owner
        self._asked: weakref.WeakKeyDictionary[Any, deque[Any]] = weakref.WeakKeyDictionary()
        self._batches: deque[_Batch] = deque(maxlen=_KEPT)
        self._note_index = shield.wrap(self._remember_index)
        self._note_batch = shield.wrap(self._remember_batch)
        self._new_batch = shield.wrap(self._on_new_batch)
        iterator = dataloader._BaseDataLoaderIter
        self._patches = [
            Patch(iterator, "_next_index", self._next_index),
            Patch(iterator, "__next__", self._next),
        ]

    def install(self) -> None:
        for patch in self._patches:
            patch.install()

    def remove(self) -> None:
        for patch in self._patches:
            patch.remove()
        self._batches.clear()

    def ids_of(self, tensors: Iterable[torch.Tensor], batch_size: int | None, before: int) -> list[Any] | None:
        """The indices of the samples in a batch, row by row; None where no loader gave it, or it gave none.

        tensors:  of the batch, and those that they were made of as far as that is known.
        before:   index of the recorded call that read the batch.
        """
        wanted = {id(t) for t in tensors}
        for batch in reversed(self._batches):
            if any((t := r()) is not None and id(t) in wanted for r in batch.references):
                return list(batch.ids)
        last = next((b for b in reversed(self._batches) if b.handed_out < before), None)
        return None if last is None or len(last.ids) != batch_size else list(last.ids)

    def _next_index(self, original: Callable[..., Any], iterator: Any) -> Any:
        index = original(iterator)
        self._note_index(iterator, index)
        return index

    def _next(self, original: Callable[..., Any], iterator: Any) -> Any:
        if self.paused or not self._owner.is_me():
            batch = original(iterator)
        else:
            # What a data set does to make a sample is not recorded: hundreds of operations, and no part of the step.
            self._outside.disarm()
            batch = original(iterator)
            self._new_batch()
        self._note_batch(iterator, batch)
        return batch

    def _on_new_batch(self) -> None:
        self._recorder.new_batch()
        if torch.is_grad_enabled():
            self._outside.arm()

    def _remember_index(self, iterator: Any, index: Any) -> None:
        if getattr(iterator, "_in_order", True):
            self._asked.setdefault(iterator, deque()).append(index)

    def _remember_batch(self, iterator: Any, batch: Any) -> None:
        asked = self._asked.get(iterator)
        if not asked:
            return
        index = asked.popleft()
        ids = list(index) if isinstance(index, list | tuple) else [index]
        if None in ids:
            return  # an IterableDataset has no indices
        references = [weakref.ref(t) for (_, t), _ in zip(tensors_in(batch), range(_MAX_TENSORS), strict=False)]
        self._batches.append(_Batch(ids, references, self._recorder.new_index()))

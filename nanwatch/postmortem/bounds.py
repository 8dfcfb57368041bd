"""How long, and in how much memory, experiments may run: looked at before every operation of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanwatch.postmortem.budget import why_no_room
from nanwatch.postmortem.collectives import is_for_dtensor
from nanwatch.postmortem.device_asserts import why_device_asserts
from nanwatch.probes.shadow import size_bytes

_LOOK_AGAIN_BYTES = 64 * 1024 * 1024


class OutOfTimeError(Exception):
    """The time for all experiments of an incident is used up."""


class NoRoomError(Exception):
    """Memory runs short; the text says where."""


class Bounds(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Breaks a run off where it would take too long, too much memory, or the device down.

    `clock` gives seconds; `refused` says what broke the run off, also where the program has swallowed the exception.
    """

    def __init__(self, seconds: float, parameters: Iterable[torch.Tensor], clock: Callable[[], float]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refused: Exception | None = None
        self._parameters = list(parameters)
        self._clock = clock
        self._deadline = clock() + seconds
        self._made_bytes = 0

    @property
    def left_s(self) -> float:
        return self._deadline - self._clock()

    def begin(self, extra_bytes: int) -> None:
        """A run begins that will take `extra_bytes` at least. Raises: OutOfTimeError, NoRoomError."""
        self.refused = None
        self._made_bytes = 0
        self._look(extra_bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if is_for_dtensor(types):
            return NotImplemented
        kwargs = kwargs or {}
        if self.left_s <= 0:
            self.refused = OutOfTimeError()
        elif reason := why_device_asserts(func, args, kwargs):
            self.refused = IndexError(reason)
        if self.refused is not None:
            raise self.refused
        result = func(*args, **kwargs)
        self._made_bytes += sum(size_bytes(t) for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        if self._made_bytes > _LOOK_AGAIN_BYTES:
            self._made_bytes = 0
            self._look(0)
        return result

    def _look(self, extra_bytes: int) -> None:
        if self.left_s <= 0:
            self.refused = OutOfTimeError()
        elif reason := why_no_room(self._parameters, extra_bytes=extra_bytes):
            self.refused = NoRoomError(reason)
        if self.refused is not None:
            raise self.refused

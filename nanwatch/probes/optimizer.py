"""Step boundaries and learning rate, by torch's global optimizer hooks.

The hooks fire for optimizers built before or after attach. A subclass that calls `super().step()` makes them fire
twice, so each optimizer has a nesting depth. Gradients are never taken here: a closure has not
run yet, or clipping has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import torch
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.utils.hooks import RemovableHandle

from nanwatch.probes.torch_names import without_dynamo
from nanwatch.shield import Shield

_OPTIMIZER_FILE = Optimizer.profile_hook_step.__code__.co_filename


class OptimizerEvents(Protocol):
    """Who wants to know of optimizer steps."""

    def before_step(self, optimizer: Optimizer) -> None: ...

    def after_step(self, optimizer: Optimizer, *, completed: int, advanced: bool) -> None: ...


class OptimizerProbe:
    """Owns the global optimizer hooks and counts the steps of the optimizers that hold watched parameters."""

    def __init__(self, events: OptimizerEvents, parameter_ids: Callable[[], frozenset[int]], shield: Shield) -> None:
        self.paused = False
        self.completed = 0
        self._counts: dict[int, int] = {}
        self._depth: dict[int, int] = {}
        self._running: dict[int, FrameType | None] = {}
        self._last = 0
        self._known_at_first_step: frozenset[int] = frozenset()
        self._watched: dict[int, tuple[int, frozenset[int], bool]] = {}
        self._optimizers: dict[int, Optimizer] = {}
        self._parameter_ids = parameter_ids
        self._events = events
        self._before = shield.wrap(self._on_pre)
        self._after = shield.wrap(self._on_post)
        self._handles: list[RemovableHandle] = []

    def install(self) -> None:
        before, after = without_dynamo(self._before), without_dynamo(self._after)
        self._handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for known in (self._optimizers, self._counts, self._depth, self._running, self._watched):
            known.clear()

    @property
    def seen(self) -> list[Optimizer]:
        """The watched optimizers, in the order in which they first stepped."""
        return list(self._optimizers.values())

    def add(self, optimizer: Optimizer) -> None:
        """Count an optimizer's steps although its parameters are not (yet) known to be watched."""
        self._optimizers[id(optimizer)] = optimizer

    def _on_pre(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self.paused or not self._is_watched(optimizer):
            return
        key = id(optimizer)
        self._optimizers.setdefault(key, optimizer)
        if self._running.get(key) is not None and _is_running(self._running[key]):
            self._depth[key] += 1
            return
        if any(_is_running(frame) for other, frame in self._running.items() if other != key):
            return  # the base of an optimizer that wraps another: its step is a part of that one's
        # A step that raised has left its depth behind; the frame tells that it is over.
        self._depth[key] = 1
        self._running[key] = _step_frame()
        self._events.before_step(optimizer)

    def _on_post(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        key = id(optimizer)
        if self.paused or not self._depth.get(key):
            return
        self._depth[key] -= 1
        if self._depth[key]:
            return
        self._running.pop(key, None)
        if _dropped_by_scaler(optimizer):
            return
        self._counts[key] = self._counts.get(key, self._first_count(optimizer)) + 1
        if key == self._last and self._counts[key] <= self.completed:
            # The second step in a row of an optimizer that is behind: the one that was ahead is no longer in use.
            self._counts[key] = self.completed + 1
        self._last = key
        advanced = self._counts[key] > self.completed
        self.completed = max(self.completed, self._counts[key])
        self._events.after_step(optimizer, completed=self.completed, advanced=advanced)

    def _first_count(self, optimizer: Optimizer) -> int:
        """Where a new optimizer begins: at 0 beside others (a GAN), at `completed` where it takes over from one.

        It takes over when it holds a parameter that another has updated, or one of a model attached since.
        """
        mine = {id(p) for g in optimizer.param_groups for p in g["params"]}
        others = [o for o in self._optimizers.values() if o is not optimizer and id(o) in self._counts]
        theirs = {id(p) for o in others for g in o.param_groups for p in g["params"]}
        if not self._known_at_first_step:
            self._known_at_first_step = self._parameter_ids()
        takes_over = not mine.isdisjoint(theirs) or mine.isdisjoint(self._known_at_first_step)
        return self.completed if takes_over else 0

    def _is_watched(self, optimizer: Optimizer) -> bool:
        ids = self._parameter_ids()
        key = id(optimizer)
        size = sum(len(g["params"]) for g in optimizer.param_groups)
        known = self._watched.get(key)
        if known is None or known[0] != size or known[1] is not ids:
            found = key in self._optimizers or any(id(p) in ids for g in optimizer.param_groups for p in g["params"])
            known = self._watched[key] = (size, ids, found)
        return known[2]


def _step_frame() -> FrameType | None:
    """The frame of torch's wrapper around the `step` that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != _OPTIMIZER_FILE:
        frame = frame.f_back
    return frame


def _is_running(wanted: FrameType | None) -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not wanted:
        frame = frame.f_back
    return frame is not None


def _dropped_by_scaler(optimizer: Optimizer) -> bool:
    """A fused optimizer is called even when GradScaler found an infinity, and then does nothing."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, torch.Tensor) and found.device.type == "cpu" and bool(found)


def learning_rate(optimizer: Optimizer) -> float:
    """The largest learning rate of the groups; NaN where it is kept on a device, because reading it would wait."""
    rates = [g.get("lr", float("nan")) for g in optimizer.param_groups]
    known = [float(r) for r in rates if not (isinstance(r, torch.Tensor) and r.device.type != "cpu")]
    return max(known, default=float("nan"))

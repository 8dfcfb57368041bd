"""Step boundaries and learning rate, by torch's global optimizer hooks.

The hooks fire for optimizers built before or after attach. A subclass that calls `super().step()` makes them fire
twice, so each optimizer has a nesting depth. Gradients are never taken here: a closure has not
run yet, or clipping has.
"""

from __future__ import annotations

from collections.abc import Callable
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
        self._optimizers.clear()

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
        self._depth[key] = self._depth.get(key, 0) + 1
        if self._depth[key] == 1:
            self._events.before_step(optimizer)

    def _on_post(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        key = id(optimizer)
        if self.paused or not self._depth.get(key):
            return
        self._depth[key] -= 1
        if self._depth[key]:
            return
        if _dropped_by_scaler(optimizer):
            return
        self._counts[key] = self._counts.get(key, 0) + 1
        advanced = self._counts[key] > self.completed
        self.completed = max(self.completed, self._counts[key])
        self._events.after_step(optimizer, completed=self.completed, advanced=advanced)

    def _is_watched(self, optimizer: Optimizer) -> bool:
        ids = self._parameter_ids()
        key = id(optimizer)
        size = sum(len(g["params"]) for g in optimizer.param_groups)
        known = self._watched.get(key)
        if known is None or known[0] != size or known[1] is not ids:
            found = key in self._optimizers or any(id(p) in ids for g in optimizer.param_groups for p in g["params"])
            known = self._watched[key] = (size, ids, found)
        return known[2]


def _dropped_by_scaler(optimizer: Optimizer) -> bool:
    """A fused optimizer is called even when GradScaler found an infinity, and then does nothing."""
    found = getattr(optimizer, "found_inf", None)
    return isinstance(found, torch.Tensor) and found.device.type == "cpu" and bool(found)


def learning_rate(optimizer: Optimizer) -> float:
    """The largest learning rate of the groups; NaN where it is kept on a device, because reading it would wait."""
    rates = [g.get("lr", float("nan")) for g in optimizer.param_groups]
    known = [float(r) for r in rates if not (isinstance(r, torch.Tensor) and r.device.type != "cpu")]
    return max(known, default=float("nan"))

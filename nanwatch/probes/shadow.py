"""The guard `shadow`: parameters and optimizer state as they were before the optimizer's last step.

Nothing is read and nobody waits: the copies are queued where the tensors live, into memory that is kept from step to
step. The training's own tensors are never written.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import Optimizer

from nanwatch.probes.flight_recorder import Stack, version
from nanwatch.probes.torch_names import without_users_modes
from nanwatch.probes.watched import WatchedModels

STATE_FACTOR = 2
"""Optimizer state in sizes of the parameters, as Adam has it; what is really there is counted as it appears."""
_NUMBERS = (int, float, complex, bool, str, type(None), tuple)


@dataclass(frozen=True)
class StateBefore:
    """What an optimizer held for one parameter before its last step."""

    entries: dict[str, Any]
    settings: dict[str, Any]
    """The parameter's group, without its parameters."""
    not_kept: tuple[str, ...]
    """Entries that are neither tensors nor numbers (the history of LBFGS): what they were is not known."""


@dataclass(frozen=True)
class LastStep:
    """The last step of a parameter on a device, where a fault in it is seen at a later step."""

    optimizer: Optimizer
    gradient: torch.Tensor | None
    """None where it has been overwritten since."""
    stack: Stack


@dataclass(slots=True)
class _Kept:
    parameter: weakref.ref[torch.Tensor]
    value: torch.Tensor
    optimizer: Optimizer
    gradient: torch.Tensor | None = None
    gradient_version: int = 0
    stack: Stack = ()


class Shadow:
    """Copies of the watched parameters of each optimizer that steps, and of what it holds for them.

    Cost:  one queued copy of parameters and state a step, and its memory: at most `max_bytes`. On a device the last
           gradients stay alive until the next step, too. What would need more gives everything back: `on_too_large`.
    """

    def __init__(self, watched: WatchedModels, max_bytes: int, on_too_large: Callable[[int], None]) -> None:
        self.bytes = 0
        self.stepped: set[int] = set()
        """Ids of the parameters that an optimizer has updated since the last backward began."""
        self._watched = watched
        self._max_bytes = max_bytes
        self._on_too_large = on_too_large
        self._kept: dict[int, _Kept] = {}
        self._states: dict[tuple[int, int], StateBefore] = {}

    def backward_begins(self) -> None:
        """What was updated before has been so when the forward of this backward ran, or belongs to another."""
        self.stepped = set()

    def save(self, optimizer: Optimizer, stack: Callable[[], Stack]) -> None:
        """Bring the copies of an optimizer's parameters up to date: to be called before its step."""
        on_device = self._watched.on_device
        if on_device and torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            return
        with torch.no_grad(), without_users_modes():
            pending = _Pending(self._max_bytes - self.bytes)
            self._collect(optimizer, pending, stack() if on_device else ())
            self.bytes += pending.new_bytes
            if pending.too_large:
                self._give_up(pending)
                return
            pending.copy()

    def step_done(self, optimizer: Optimizer) -> None:
        """A fused optimizer counts up the versions of the gradients that it reads: only what comes later counts."""
        if not self._watched.on_device:
            return
        for group in optimizer.param_groups:
            for p in group["params"]:
                kept = self._of(p)
                if kept is not None and kept.gradient is not None:
                    kept.gradient_version = version(kept.gradient)

    def before(self, parameter: torch.Tensor) -> torch.Tensor | None:
        """The parameter's value before the last step of its optimizer; None where it is not known."""
        kept = self._of(parameter)
        return None if kept is None else kept.value

    def state_before(self, optimizer: Optimizer, parameter: torch.Tensor) -> StateBefore | None:
        """What the optimizer held for the parameter before its last step; the tensors are the shadow's own."""
        return None if self._of(parameter) is None else self._states.get((id(optimizer), id(parameter)))

    def last_step(self, parameter: torch.Tensor) -> LastStep | None:
        """Who updated the parameter last, and with which gradient; known on a device only."""
        kept = self._of(parameter)
        if kept is None or not kept.stack:
            return None
        gradient = kept.gradient
        if gradient is not None and version(gradient) != kept.gradient_version:
            gradient = None
        return LastStep(kept.optimizer, gradient, kept.stack)

    def _of(self, parameter: torch.Tensor) -> _Kept | None:
        kept = self._kept.get(id(parameter))
        return kept if kept is not None and kept.parameter() is parameter else None

    def _collect(self, optimizer: Optimizer, pending: _Pending, stack: Stack) -> None:
        ids = self._watched.ids
        for group in optimizer.param_groups:
            for p in group["params"]:
                if id(p) not in ids or not can_be_kept(p):
                    continue
                known = self._of(p)
                if known is None:
                    self._forget(pending, dead=True)
                elif known.optimizer is not optimizer:
                    self._forget(pending, owned=id(p))
                value = pending.add(None if known is None else known.value, p)
                if value is None:
                    return
                kept = self._kept[id(p)] = known or _Kept(weakref.ref(p), value, optimizer)
                kept.value, kept.optimizer = value, optimizer
                if stack:
                    kept.gradient, kept.stack = p.grad, stack
                    kept.gradient_version = 0 if p.grad is None else version(p.grad)
                self.stepped.add(id(p))
        for holder in (optimizer, *wrapped(optimizer)):
            for group in holder.param_groups:
                for p in group["params"]:
                    if id(p) in self._kept:
                        self._collect_state(holder, group, p, pending)

    def _collect_state(
        self, optimizer: Optimizer, group: dict[str, Any], parameter: torch.Tensor, pending: _Pending
    ) -> None:
        key = (id(optimizer), id(parameter))
        known = self._states.get(key)
        settings = {k: v for k, v in group.items() if k != "params"}
        entries, not_kept = pending.add_all({} if known is None else known.entries, optimizer.state.get(parameter, {}))
        settings, _ = pending.add_all({} if known is None else known.settings, settings)
        self._states[key] = StateBefore(entries, settings, not_kept)

    def _forget(self, pending: _Pending, *, dead: bool = False, owned: int | None = None) -> None:
        """Give back the copies of parameters that are gone, or the state that another optimizer held for one."""
        gone = {key for key, kept in self._kept.items() if dead and kept.parameter() is None}
        for key in gone:
            pending.new_bytes -= size_bytes(self._kept.pop(key).value)
        for holder in [key for key in self._states if key[1] in gone or key[1] == owned]:
            state = self._states.pop(holder)
            copies = (*state.entries.values(), *state.settings.values())
            pending.new_bytes -= sum(size_bytes(c) for c in copies if isinstance(c, torch.Tensor))

    def _give_up(self, pending: _Pending) -> None:
        needed = self.bytes + pending.refused_bytes
        self._kept, self._states, self.stepped, self.bytes = {}, {}, set(), 0
        self._on_too_large(needed)


class _Pending:
    """The copies of one save, collected so that they are queued together."""

    def __init__(self, room_bytes: int) -> None:
        self.new_bytes = 0
        self.refused_bytes = 0
        self._room_bytes = room_bytes
        self._into: defaultdict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = defaultdict(list)
        self._now: defaultdict[tuple[torch.device, torch.dtype], list[torch.Tensor]] = defaultdict(list)

    @property
    def too_large(self) -> bool:
        return self.refused_bytes > 0

    def add(self, kept: Any, tensor: torch.Tensor) -> torch.Tensor | None:
        """The copy to be filled: the one of the last step, where the tensor still has its form; None without room."""
        tensor = tensor.detach()
        key = (tensor.device, tensor.dtype)
        copy = kept if isinstance(kept, torch.Tensor) else None
        if copy is None or copy.shape != tensor.shape or (copy.device, copy.dtype) != key:
            self.new_bytes += size_bytes(tensor) - (0 if copy is None else size_bytes(copy))
            if self.new_bytes > self._room_bytes:
                self.refused_bytes += size_bytes(tensor)
                return None
            copy = torch.empty_like(tensor)
        self._into[key].append(copy)
        self._now[key].append(tensor)
        return copy

    def add_all(self, copies: dict[str, Any], values: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The values with copies in place of tensors, and the names of those that cannot be kept."""
        out: dict[str, Any] = {}
        not_kept = []
        for name, value in values.items():
            if isinstance(value, torch.Tensor) and can_be_kept(value):
                out[name] = self.add(copies.get(name), value)
            elif isinstance(value, _NUMBERS):
                out[name] = value
            else:
                not_kept.append(name)
        self.new_bytes -= sum(size_bytes(c) for n, c in copies.items() if n not in out and isinstance(c, torch.Tensor))
        return out, tuple(not_kept)

    def copy(self) -> None:
        for key, into in self._into.items():
            torch._foreach_copy_(into, self._now[key])


def can_be_kept(tensor: torch.Tensor) -> bool:
    """A dense tensor with values: not one of a lazy module, not sparse, not sharded, not quantized by a subclass."""
    own_dispatch = type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return not (own_dispatch or is_lazy(tensor) or tensor.is_meta) and tensor.layout == torch.strided


def wrapped(optimizer: Optimizer) -> Iterator[Optimizer]:
    """The optimizers that an optimizer holds and steps itself, where they have a state of their own."""
    for value in vars(optimizer).values():
        if isinstance(value, Optimizer) and value is not optimizer and value.state is not optimizer.state:
            yield value
            yield from wrapped(value)


def size_bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()

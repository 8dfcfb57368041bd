"""All probes of a process, put together: what attach switches on and detach switches off."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.optimizer import Optimizer

from nanwatch.probes.ambient import Surroundings
from nanwatch.probes.backward import BackwardCall, BackwardProbe
from nanwatch.probes.entry import EntryProbe
from nanwatch.probes.flight_recorder import FlightRecorder
from nanwatch.probes.gradient_hooks import GradientHooks
from nanwatch.probes.live_slot import LiveSlot
from nanwatch.probes.opaque import OpaqueProbe
from nanwatch.probes.optimizer import OptimizerProbe
from nanwatch.probes.outside import OutsideRecorder, user_stack
from nanwatch.probes.owner import Owner
from nanwatch.probes.patching import Patch
from nanwatch.probes.samples import SampleProbe
from nanwatch.probes.scaling import ScalingProbe
from nanwatch.probes.shadow import Shadow
from nanwatch.probes.trip import Trip
from nanwatch.probes.tripwire import Tripwire
from nanwatch.probes.watched import WatchedModels
from nanwatch.records import NoteRecord, Policy, Record
from nanwatch.shield import Shield

_FAST_PATHS = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)

NAMES_IDS_A_RANK = 1 << 16
"""So that the numbers of name tables are unique over the ranks of a run."""


class Probes:
    """One set for the process, however many models are attached; a probe without models is switched off."""

    def __init__(
        self,
        *,
        policy: Policy,
        rank: int,
        start_step: int,
        emit: Callable[[Record], None],
        on_trip: Callable[[Trip], None],
        is_overflow_real: Callable[[Trip], bool],
        on_fold: Callable[[int, int, bool], None],
        report: Callable[[str, BaseException], None],
        strict: bool,
    ) -> None:
        self.shadow: Shadow | None = None
        """Copies of parameters and optimizer state from before the last step, where `keep_shadow` asked for them."""
        self.watched = WatchedModels(first_names_id=rank * NAMES_IDS_A_RANK)
        self.recorder = FlightRecorder()
        self.surroundings = Surroundings()
        self.shields: list[Shield] = []
        self._emit = emit
        self._rank = rank
        self._report = report
        self._strict = strict
        self._entries: dict[str, EntryProbe] = {}
        self._installed = False
        self._relearned = False
        self.owner = Owner(self._is_idle)
        self.live = LiveSlot(self.recorder)
        self.outside = OutsideRecorder(
            self.recorder,
            self.surroundings,
            self._shield("outside").contain,
            self._learn,
            lambda: self.watched.ids,
            self.owner,
        )
        self.opaque = OpaqueProbe(
            self.recorder, self.outside, self.surroundings, self.owner, self.live, enter_opaque=self._enter_opaque,
            modules=lambda: self.watched.models, shield=self._shield("opaque calls"),
        )  # fmt: skip
        self.samples = SampleProbe(self.outside, self.recorder, self.owner, self._shield("samples"))
        self.scaling = ScalingProbe(self._scaler_skipped, self._shield("scaling"))
        self.gradient_hooks = GradientHooks(self._shield("gradient hooks"))
        self.tripwire = Tripwire(
            self.watched, self.recorder, self.scaling, self.gradient_hooks, self.live, policy=policy, rank=rank,
            start_step=start_step, emit=emit, on_trip=on_trip, is_overflow_real=is_overflow_real, on_fold=on_fold,
            on_unrecorded=self._learn,
        )  # fmt: skip
        self.backward = BackwardProbe(
            _BackwardsSeen(self), self.outside, self.owner, lambda: self.watched.ids, self._shield("backward")
        )
        self.optimizer = OptimizerProbe(_StepsSeen(self), lambda: self.watched.ids, self._shield("optimizer"))
        self.tripwire.optimizer = self.optimizer
        self._patches = [Patch(torch.jit, "script", self._script)]
        self._patches += [Patch(cls, "forward", self._in_teacher) for cls in _FAST_PATHS]
        self._patches += [Patch(cls, "zero_grad", self._off_the_stack) for cls in (Optimizer, nn.Module)]

    def add(self, name: str, model: nn.Module) -> None:
        """Put the probes on a model."""
        self.watched.add(name, model)
        entry = EntryProbe(
            name, model, self.recorder, self.outside, self.surroundings, self.owner, self.live,
            self._shield(f"entry {name}"),
        )  # fmt: skip
        self._entries[name] = entry
        entry.learn()
        self.tripwire.attached()
        if not self._installed:
            for probe in (self.backward, self.optimizer, self.scaling, self.opaque, self.samples):
                probe.install()
            for patch in self._patches:
                patch.install()
            self._installed = True

    def remove(self, name: str) -> None:
        """Take them off; with the last model everything that was patched is given back."""
        self.live.disarm()
        self._entries.pop(name).remove()
        self.watched.remove(name)
        if self._entries or not self._installed:
            return
        self.outside.disarm()
        self.gradient_hooks.remove()
        for probe in (self.samples, self.opaque, self.scaling, self.optimizer, self.backward):
            probe.remove()
        for patch in self._patches:
            patch.remove()
        self.recorder.discard()
        self.shadow = None
        self._installed = False

    def keep_shadow(self, max_bytes: int | None) -> None:
        """Keep, from the next step on, what parameters and optimizer state were before it; None: no longer."""
        if max_bytes is None:
            self.shadow = None
        elif self.shadow is None:
            self.shadow = Shadow(self.watched, max_bytes, self._shadow_too_large)

    def _shadow_too_large(self, needed_bytes: int) -> None:
        self.shadow = None
        text = f"more than {needed_bytes >> 20} MiB would be needed: the guard is sync from here on"
        self.note("shadow_too_large", text)

    def note(self, reason: str, text: str) -> None:
        """Something that belongs into the ledger."""
        self._emit(NoteRecord(self._rank, reason, 1, text))

    @property
    def names(self) -> list[str]:
        return list(self._entries)

    def add_optimizer(self, optimizer: Optimizer) -> None:
        self.optimizer.add(optimizer)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing is observed inside: used while the step is replayed."""
        parts = self._parts()
        self.outside.disarm()
        before = [p.paused for p in parts]
        for p in parts:
            p.paused = True
        try:
            yield
        finally:
            for p, was in zip(parts, before, strict=True):
                p.paused = was

    def switch_off(self) -> None:
        """Observe nothing any more, without touching what is installed: for a forked child."""
        self.outside.disarm()
        self.live.disarm()
        for p in self._parts():
            p.paused = True

    def _parts(self) -> list[_Pausable]:
        entries = self._entries.values()
        parts: list[_Pausable] = [
            self.backward,
            self.optimizer,
            self.scaling,
            self.gradient_hooks,
            self.opaque,
            self.samples,
        ]
        return [*parts, *entries]

    def step_done(self, completed: int) -> None:
        for entry in self._entries.values():
            entry.step_done(completed)
        if self.owner.is_me() and not self.tripwire.in_backward:
            self.outside.arm()  # from here on the next batch is prepared, perhaps with operations that go wrong

    def _learn(self) -> None:
        """The training calls a part of the model that carries no hooks (any more): look for it again, once."""
        if self._relearned:
            return
        self._relearned = True
        for entry in self._entries.values():
            entry.learn(again=True)

    def _enter_opaque(self) -> bool:
        """An opaque call begins: inside an entry module it is a part of that; otherwise it is recorded itself.

        Then hooks below the models are taken off before a compiler sees them, which would compile anew without them.
        """
        if any(e.depth for e in self._entries.values()):
            return False
        for entry in self._entries.values():
            entry.settle()
        return True

    def _is_idle(self) -> bool:
        """Between two steps: nothing recorded that a backward is still to come for."""
        begun = self.recorder.current.first_entry is not None
        return not (begun or self.tripwire.in_backward or any(e.depth for e in self._entries.values()))

    def forget_depths(self) -> None:
        """A backward begins, so no forward is under way: one that raised has left its depth behind."""
        for entry in self._entries.values():
            entry.depth = 0

    def _script(self, original: Callable[..., Any], obj: Any, *args: Any, **kwargs: Any) -> Any:
        """`torch.jit.script` compiles the hooks of a module, and cannot compile ours."""
        self.live.disarm()
        with ExitStack() as stack:
            for entry in self._entries.values():
                stack.enter_context(entry.lifted())
            return original(obj, *args, **kwargs)

    def _in_teacher(self, original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Transformers take a faster path, with other roundings, where no function mode is active."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return original(module, *args, **kwargs)
        return self._off_the_stack(original, module, *args, **kwargs)

    def _off_the_stack(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Without the recorder: zeroing gradients reads two attributes a parameter, and each would pass through it."""
        if not self.outside.armed:
            return original(*args, **kwargs)
        self.outside.disarm()
        try:
            return original(*args, **kwargs)
        finally:
            self.outside.arm()

    def _scaler_skipped(self) -> None:
        self.tripwire.scaler_skipped()

    def _shield(self, name: str) -> Shield:
        shield = Shield(name, self._report, strict=self._strict)
        self.shields.append(shield)
        return shield


class _Pausable(Protocol):
    paused: bool


class _BackwardsSeen:
    """Backward events for the tripwire, once the entry probes know."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes

    def before_backward(self, call: BackwardCall) -> None:
        self._probes.opaque.abandon()
        self._probes.forget_depths()
        if self._probes.shadow is not None:
            self._probes.shadow.backward_begins()
        self._probes.tripwire.before_backward(call)

    def after_backward(self, call: BackwardCall) -> None:
        with self._probes.live.over():
            self._probes.tripwire.after_backward(call)
        if self._probes.tripwire.records_updates and not self._probes.outside.covered:
            self._probes.outside.arm(updates=True)

    def backward_raised(self, call: BackwardCall, error: BaseException) -> None:
        with self._probes.live.over():
            self._probes.tripwire.backward_raised(call, error)


class _StepsSeen:
    """Optimizer events for the tripwire, then for the probes that learn from them."""

    def __init__(self, probes: Probes) -> None:
        self._probes = probes

    def before_step(self, optimizer: Optimizer) -> None:
        self._probes.opaque.abandon()
        self._probes.outside.disarm()
        # Gradients that came without a backward (torch.func): what was traced of them ends here.
        ended = nullcontext() if self._probes.tripwire.in_backward else self._probes.live.over()
        with ended:
            self._probes.tripwire.before_step(optimizer)
        if self._probes.shadow is not None:
            began = time.perf_counter()
            self._probes.shadow.save(optimizer, lambda: user_stack(sys._getframe(1)))
            self._probes.tripwire.took(time.perf_counter() - began)

    def after_step(self, optimizer: Optimizer, *, completed: int, advanced: bool) -> None:
        if self._probes.shadow is not None:
            self._probes.shadow.step_done(optimizer)
        self._probes.tripwire.after_step(optimizer, completed=completed, advanced=advanced)
        self._probes.step_done(completed)

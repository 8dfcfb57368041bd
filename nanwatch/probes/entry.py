"""The entry modules' forward: what they were called with and what surrounded the call.

An entry module is one that the training program calls itself: the root as a rule, but also the parts of a container
that is never called (a GAN's two halves, a LightningModule). Every module carries our hooks until the first steps have
shown which are called at depth 0; after that only those do. A root that is called ends the search for its model at
once, before torch.compile gets to see hooks below it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from nanwatch.probes.ambient import Surroundings, mentions_python_rng
from nanwatch.probes.flight_recorder import Call, FlightRecorder, leaves_in, version
from nanwatch.probes.live_slot import LiveSlot
from nanwatch.probes.outside import OutsideRecorder, user_stack
from nanwatch.probes.owner import Owner
from nanwatch.probes.torch_names import inside_transform
from nanwatch.probes.watched import clean
from nanwatch.shield import Shield

LEARNING_STEPS = 2


class Hook:
    """One of our hooks on a module. A copy of the module, or a pickle of it, gets one that does nothing instead."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn = fn

    def __call__(self, *args: Any) -> Any:
        if torch.compiler.is_compiling():
            return None  # compiled away, without a break in the graph; opaque.py observes the call from its outside
        return self._fn(*args)

    def __deepcopy__(self, memo: Any) -> Callable[..., None]:
        return nullcontext().__exit__

    def __reduce__(self) -> tuple[Any, ...]:
        # Made of the standard library alone, so that the file also loads where nanwatch is not installed.
        return getattr, (nullcontext(), "__exit__")


class EntryProbe:
    """Owns the forward hooks of one model."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        recorder: FlightRecorder,
        outside: OutsideRecorder,
        surroundings: Surroundings,
        owner: Owner,
        live: LiveSlot,
        shield: Shield,
    ) -> None:
        self.name = name
        self.model = model
        self.depth = 0
        self.paused = False
        self._recorder = recorder
        self._outside = outside
        self._surroundings = surroundings
        self._owner = owner
        self._live = live
        self._shield = shield
        self._handles: dict[int, list[RemovableHandle]] = {}
        self._names: dict[int, str] = {}
        self._entries: set[int] = set()
        self._learning_until = -1
        self._root_ends_search = True
        self._pending: Call | None = None
        self._overwrites: set[int] = set()
        """Modules that change their inputs in place."""
        self._rearm = False

    # --- which modules ---

    def learn(self, *, again: bool = False) -> None:
        """Hook every module and see which are called in this step and the next; `again` when that has missed some.

        Modules inside a compiled one are left alone.
        """
        self._learning_until = self._recorder.step + LEARNING_STEPS
        self._root_ends_search = not again
        for fqn, module in outside_of_compiled(self.model):
            self._names[id(module)] = clean(f"{self.name}.{fqn}" if self.name and fqn else self.name or fqn)
            self._hook(module)
        self._surroundings.python_rng |= any(mentions_python_rng(m) for m in self.model.modules())

    @property
    def learning(self) -> bool:
        return self._learning_until >= 0

    def step_done(self, step: int) -> None:
        """An optimizer step is complete; after the first ones the hooks that never fired at depth 0 go."""
        self.depth = 0
        if self.learning and step >= self._learning_until and self._entries:
            self._keep(self._entries)

    def remove(self) -> None:
        """Take every hook off: the model is as before."""
        for handles in self._handles.values():
            for handle in handles:
                handle.remove()
        self._handles.clear()

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """The model without our hooks, for what compiles or exports it."""
        hooked = [m for m in self.model.modules() if id(m) in self._handles]
        self.remove()
        try:
            yield
        finally:
            for module in hooked:
                self._hook(module)

    def settle(self) -> None:
        """End the search for entry modules: from the root's call, or from that of a compiled function, all is seen."""
        if self.learning and self._root_ends_search:
            self._keep({id(self.model)})

    def _keep(self, entries: set[int]) -> None:
        self._learning_until = -1
        for key in [k for k in self._handles if k not in entries]:
            for handle in self._handles.pop(key):
                handle.remove()

    def _hook(self, module: nn.Module) -> None:
        if id(module) in self._handles:
            return
        before = Hook(self._shield.wrap(self._before))
        after = Hook(self._shield.wrap(self._after))
        self._handles[id(module)] = [
            module.register_forward_pre_hook(before, with_kwargs=True),
            # Also after an exception, so that the depth stays true: checkpointing ends its recomputation by one.
            module.register_forward_hook(after, with_kwargs=True, always_call=True),
        ]

    # --- in the step ---

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        trains = torch.is_grad_enabled()
        if self.paused or self._outside.busy or id(module) not in self._names:
            return  # a copy of the model carries copies of its hooks
        if not (self._owner.claim() if trains else self._owner.is_me()) or inside_transform():
            return
        self.depth += 1
        if self.depth > 1:
            return
        self._pending = None
        self._entries.add(id(module))
        if self.learning and self._root_ends_search and module is self.model:
            self.settle()
        self._rearm = self._outside.armed
        self._outside.disarm()
        if torch._C._current_graph_task_id() != -1:
            return
        # Without gradients it may be an evaluation, and it may be what the step's batch is made of: a teacher's
        # targets, a generator's images for the critic.
        self._recorder.begin_entry(trains=trains)
        if trains:
            self._recorder.save_buffers(module)
        # Taken down before the forward runs: it may change its arguments in place.
        self._pending = Call(
            index=self._recorder.new_index(),
            segment=self._recorder.current.number,
            function=None,
            args=self._recorder.describe(args),
            kwargs=self._recorder.describe(kwargs),
            ambient=self._surroundings.ambient(),
            stack=user_stack(sys._getframe(2)),
            module=module,
            name=self._names[id(module)],
            training=module.training,
            rng=self._surroundings.rng(),
        )
        if id(module) in self._overwrites:
            for leaf in leaves_in(self._pending):
                self._recorder.keep_copy(leaf)
        self._live.entered(self._pending)

    def _after(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.paused or not self.depth or not self._owner.is_me():
            return
        if id(module) not in self._names or inside_transform():
            return
        self.depth -= 1
        if self.depth:
            return
        call, self._pending = self._pending, None
        if call is not None and output is None:  # it raised, or is called for what it does
            self._recorder.listener.broke(call)
        elif call is not None and self._recorder.add(call):
            self._recorder.made(call, output)
            self._rearm = True
        if call is not None and any(version(leaf.tensor) != leaf.version for leaf in leaves_in(call)):
            self._overwrites.add(id(module))
        if self._rearm:
            self._outside.arm()


def outside_of_compiled(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules by name, without those below an OptimizedModule: hooks there would break its graph."""
    out: list[tuple[str, nn.Module]] = []
    closed: list[str] = []
    for fqn, module in model.named_modules():
        if any(fqn.startswith(c) for c in closed):
            continue
        out.append((fqn, module))
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            closed.append(f"{fqn}." if fqn else "")
    return out

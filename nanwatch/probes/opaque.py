"""Calls that a function mode does not see into: compiled functions, transforms of torch.func, functional calls, and
autograd.Functions of the program's own.

Each is recorded as one call, which the replay runs without the compiler, operation by operation. A compiled function
may hold the model as well as the loss; our hooks inside of it are compiled away (see entry.Hook), so it is observed
from outside: torch calls `_maybe_set_eval_frame` right before and right after it, in the frame that has its arguments.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch._functorch import apis, eager_transforms
from torch.nn.utils import stateless

from nanwatch.probes.ambient import Surroundings
from nanwatch.probes.flight_recorder import Call, FlightRecorder
from nanwatch.probes.live_slot import LiveSlot
from nanwatch.probes.outside import OutsideRecorder, user_stack
from nanwatch.probes.owner import Owner
from nanwatch.probes.patching import Patch
from nanwatch.probes.torch_names import inside_transform
from nanwatch.shield import Shield

_COMPILER = "torch._dynamo.eval_frame"
_SWITCH = "_maybe_set_eval_frame"
_WRAPPER = "compile_wrapper"


_REGIONS = (
    (stateless, "_functional_call"), (apis, "vmap_impl"), (eager_transforms, "grad_impl"),
    (eager_transforms, "grad_and_value_impl"),
)  # fmt: skip
"""Where torch.func.functional_call, vmap, grad and grad_and_value look their implementation up when they are called."""


class OpaqueProbe:
    """Owns the patches of `autograd.Function.apply`, of torch.func, and of the compiler's switch."""

    def __init__(
        self,
        recorder: FlightRecorder,
        outside: OutsideRecorder,
        surroundings: Surroundings,
        owner: Owner,
        live: LiveSlot,
        *,
        enter_opaque: Callable[[], bool],
        modules: Callable[[], Mapping[str, nn.Module]],
        shield: Shield,
    ) -> None:
        self.paused = False
        self.running: FrameType | None = None
        """The frame of torch's wrapper around the compiled function that is running."""
        self._recorder = recorder
        self._outside = outside
        self._surroundings = surroundings
        self._owner = owner
        self._live = live
        self._enter_opaque = enter_opaque
        self._modules = modules
        self._call: Call | None = None
        self._armed_before = False
        self._before_function = shield.wrap(self._call_of)
        self._before_region = shield.wrap(self._begin_region)
        self._after_function = shield.wrap(self._keep)
        self._enter = shield.wrap(self._on_enter)
        self._leave = shield.wrap(self._on_leave)
        self._patches = [
            Patch(torch.autograd.Function, "apply", self._apply),
            Patch(torch, "compile", self._compile),
            *(Patch(owner, name, self._region) for owner, name in _REGIONS),
        ]
        self._switch: Patch | None = None

    def install(self) -> None:
        for patch in self._patches:
            patch.install()
        self._look_for_compiler()

    def remove(self) -> None:
        for patch in (*self._patches, *([self._switch] if self._switch is not None else [])):
            patch.remove()
        self._switch = None

    def _look_for_compiler(self) -> None:
        """The compiler is loaded by its first use, which may come after attach."""
        compiler = sys.modules.get(_COMPILER)
        if self._switch is None and compiler is not None and hasattr(compiler, _SWITCH):
            self._switch = Patch(compiler, _SWITCH, self._around_switch)
            self._switch.install()

    def _compile(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        compiled = original(*args, **kwargs)
        self._look_for_compiler()
        return compiled

    # --- an autograd.Function in the loss code ---

    def _apply(self, original: Callable[..., Any], cls: type, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or self.paused or not self._outside.records or inside_transform():
            return original(cls, *args, **kwargs)
        function = cls.apply  # type: ignore[attr-defined]
        call = self._before_function(function, args, kwargs, sys._getframe(2))
        return self._run_covered(call, lambda: original(cls, *args, **kwargs), arm=True)

    # --- a region that may hold the model, with other parameters than its own or per sample ---

    def _region(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or self.paused or not self._may_begin():
            return original(*args, **kwargs)
        armed = self._outside.armed
        self._outside.disarm()
        call = self._before_region(original, args, kwargs, sys._getframe(2))
        return self._run_covered(call, lambda: original(*args, **kwargs), arm=armed or torch.is_grad_enabled())

    def _may_begin(self) -> bool:
        """Whether a region that begins now is the training's own, and not a part of another call."""
        if self._outside.busy or inside_transform() or torch._C._current_graph_task_id() != -1:
            return False
        return self._owner.claim() and self._enter_opaque()

    def _begin_region(self, function: Callable[..., Any], args: Any, kwargs: Any, frame: FrameType) -> Call:
        self._recorder.begin_entry(trains=torch.is_grad_enabled())
        for module in self._modules().values():
            self._recorder.save_buffers(module)
        call = self._call_of(function, args, kwargs, frame)
        call.opaque = True
        self._live.entered(call)
        return call

    def _run_covered(self, call: Call | None, run: Callable[[], Any], *, arm: bool) -> Any:
        """Nothing is recorded inside: the call stands for all of it."""
        self._outside.disarm()
        self._outside.covered = True
        try:
            output = run()
        except BaseException:
            if call is not None:
                self._recorder.listener.broke(call)
            raise
        finally:
            self._outside.covered = False
            if arm:
                self._outside.arm()
        if call is not None:
            self._after_function(call, output)
        return output

    def _keep(self, call: Call, output: Any) -> None:
        if self._recorder.made(call, output):
            self._recorder.add(call)

    # --- a compiled function ---

    def _around_switch(self, original: Callable[..., Any], callback: Any) -> Any:
        if not self.paused:
            frame = sys._getframe(2)
            if frame.f_code.co_name == _WRAPPER and frame.f_code.co_filename == self._compiler_file():
                if self.running is frame:
                    self._leave(frame)
                elif self.running is None and "call_succeeded" not in frame.f_locals:
                    self._enter(frame)
        return original(callback)

    @staticmethod
    def _compiler_file() -> str | None:
        return sys.modules[_COMPILER].__file__

    def _on_enter(self, frame: FrameType) -> None:
        if torch.compiler.is_compiling() or not torch.is_grad_enabled() or not self._may_begin():
            return
        local = frame.f_locals
        self.running = frame
        self._armed_before = self._outside.armed
        self._outside.disarm()
        self._outside.covered = True
        call = self._begin_region(local["fn"], local["args"], local["kwargs"], frame)
        call.name, call.module = _module_of(local["fn"], self._modules())
        call.training = call.module is not None and call.module.training
        self._call = call

    def _on_leave(self, frame: FrameType) -> None:
        call, self._call, self.running = self._call, None, None
        self._outside.covered = False
        local = frame.f_locals
        output = local.get("result")
        if call is not None and not local.get("call_succeeded"):
            self._recorder.listener.broke(call)
        elif call is not None and self._recorder.made(call, output):
            self._recorder.add(call)
            self._armed_before = True
        if self._armed_before:
            self._outside.arm()

    def abandon(self) -> None:
        """A backward or an optimizer's step begins inside of a compiled function: that must never be run again."""
        if self.running is not None:
            self._call = None
            self._outside.covered = False

    # --- all of them ---

    def _call_of(self, function: Callable[..., Any], args: Any, kwargs: Any, frame: FrameType) -> Call:
        return Call(
            index=self._recorder.new_index(),
            segment=self._recorder.current.number,
            function=function,
            args=self._recorder.describe(args),
            kwargs=self._recorder.describe(kwargs),
            ambient=self._surroundings.ambient(),
            stack=user_stack(frame),
            rng=self._surroundings.rng(),
        )


_CALLS = {"__call__", "_call_impl", "_wrapped_call_impl", "forward"}


def _module_of(function: Any, modules: Mapping[str, nn.Module]) -> tuple[str, nn.Module | None]:
    """The watched module whose call the function is; a function that only uses one has none."""
    bound = [function, *(c.cell_contents for c in getattr(function, "__closure__", None) or () if _filled(c))]
    owners = [getattr(f, "__self__", None) for f in bound if getattr(f, "__name__", "") in _CALLS]
    return next(((name, m) for o in owners for name, m in modules.items() if m is o), ("", None))


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 an empty cell says so by raising
    except ValueError:
        return False
    return True

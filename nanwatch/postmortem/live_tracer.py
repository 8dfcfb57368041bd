"""The tracer inside of the training itself: what it sees is the step, not a copy of it.

It runs every operation once, as it is, and takes down what went in and what came out. Whatever fails of that ends the
trace, never the step. Compiled functions stay compiled: of them it sees what their kernels call by name.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from nanwatch.postmortem.collectives import is_for_dtensor
from nanwatch.postmortem.tracer import Tracer

MAX_EVENTS = 50_000
"""Beyond that the trace is given up: some hundred megabytes on the host."""

P = ParamSpec("P")
R = TypeVar("R")


class LiveTracer(Tracer):  # type: ignore[no-untyped-call]
    """A tracer for one backward of the training and the forwards before it."""

    supports_higher_order_operators = True

    def __init__(
        self, batch_size: int | None, modules: list[str], calls: Counter[str], on_end: Callable[[str], None]
    ) -> None:
        super().__init__(batch_size)
        self.modules = modules
        self.calls = calls
        self.ended = False
        """It only passes operations on."""
        self._on_end = on_end
        # On several devices autograd runs a thread for each.
        self._lock = threading.RLock()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_for_dtensor(types):
            return NotImplemented
        if self.ended or not isinstance(func, torch._ops.OpOverload):
            return func(*args, **kwargs)
        seen = self._contained(self.before, func, args, kwargs)
        result = func(*args, **kwargs)
        if seen is not None and not self.ended:
            self._contained(self.after, seen, result)
        return result

    def end(self) -> None:
        """Take nothing down any more, and let go of what was."""
        self.ended = True
        self.events = []

    def _contained(self, take_down: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R | None:
        if torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing():  # type: ignore[no-untyped-call]
            self._give_up("a CUDA graph is being captured, and nothing can be read then")
            return None
        if len(self.events) >= MAX_EVENTS:
            self._give_up(f"one of them has more than {MAX_EVENTS} operations")
            return None
        try:
            with self._lock:
                return take_down(*args, **kwargs)
        except Exception as e:
            self._give_up(f"{type(e).__name__}: {e}"[:300])
            return None

    def _give_up(self, why: str) -> None:
        self.end()
        self._on_end(why)

"""Loss and gradients, when the outermost backward returns: after all-reduce, before clipping.

`Tensor.backward` and `torch.autograd.backward` are both wrapped, because a recorded loss reaches the first through the
function-mode stack, and users call the second directly. `torch.autograd.grad` counts as a backward only when it is
asked for gradients of watched parameters and is not itself part of the loss code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from nanwatch.probes.flight_recorder import Ref
from nanwatch.probes.outside import OutsideRecorder
from nanwatch.probes.owner import Owner
from nanwatch.probes.patching import Patch
from nanwatch.shield import Shield


@dataclass(frozen=True)
class BackwardCall:
    """An outermost backward: what it started from. `gradients` is set where they were returned, not accumulated."""

    roots: tuple[torch.Tensor | Ref, ...]
    """A Ref where the loss as it was before it was scaled is no longer alive."""
    seeds: tuple[torch.Tensor | None, ...]
    gradients: dict[int, torch.Tensor | None] | None = None
    """id of the parameter -> its gradient."""

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The roots that are alive."""
        return tuple(r for r in self.roots if isinstance(r, torch.Tensor))


class BackwardEvents(Protocol):
    """Who wants to know of backward calls."""

    def before_backward(self, call: BackwardCall) -> None: ...

    def after_backward(self, call: BackwardCall) -> None: ...

    def backward_raised(self, call: BackwardCall, error: BaseException) -> None: ...


class BackwardProbe:
    """Owns the wrappers of the autograd entry points."""

    def __init__(
        self,
        events: BackwardEvents,
        outside: OutsideRecorder,
        owner: Owner,
        parameter_ids: Callable[[], frozenset[int]],
        shield: Shield,
    ) -> None:
        self.paused = False
        self._outside = outside
        self._parameter_ids = parameter_ids
        self._owner = owner
        self._inside = False
        self._before = shield.wrap(events.before_backward)
        self._after = shield.wrap(events.after_backward)
        self._raised = shield.wrap(events.backward_raised)
        self._patches = [
            Patch(torch.Tensor, "backward", self._tensor_backward),
            Patch(torch.autograd, "backward", self._autograd_backward),
            Patch(torch.autograd, "grad", self._autograd_grad),
        ]

    def install(self) -> None:
        for patch in self._patches:
            patch.install()

    def remove(self) -> None:
        for patch in reversed(self._patches):
            patch.remove()

    def _tensor_backward(
        self, original: Callable[..., Any], tensor: torch.Tensor, gradient: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        return self._around(lambda: original(tensor, gradient, *args, **kwargs), tensor, gradient)

    def _autograd_backward(
        self, original: Callable[..., Any], tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        return self._around(lambda: original(tensors, grad_tensors, *args, **kwargs), tensors, grad_tensors)

    def _around(self, call: Callable[[], Any], tensors: Any, seeds: Any) -> Any:
        if not self._is_outermost():
            return call()
        self._inside = True
        backward = BackwardCall(_sequence(tensors), _sequence(seeds))
        try:
            self._outside.disarm()
            self._before(backward)
            try:
                result = call()
            except BaseException as e:
                self._raised(backward, e)
                raise
            self._after(backward)
        finally:
            self._inside = False
        return result

    def _autograd_grad(
        self,
        original: Callable[..., Any],
        outputs: Any,
        inputs: Any,
        grad_outputs: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        wanted = _sequence(inputs)
        ids = self._parameter_ids()
        if not self._is_outermost() or self._creates_graph(args, kwargs) or not any(id(t) in ids for t in wanted):
            return original(outputs, inputs, grad_outputs, *args, **kwargs)
        self._inside = True
        try:
            self._outside.disarm()
            self._before(BackwardCall(_sequence(outputs), _sequence(grad_outputs)))
            result = original(outputs, inputs, grad_outputs, *args, **kwargs)
            gradients = {id(t): g for t, g in zip(wanted, result, strict=False)}
            self._after(BackwardCall(_sequence(outputs), _sequence(grad_outputs), gradients))
            self._outside.arm()  # what the program makes of the gradients it was given is its own code
        finally:
            self._inside = False
        return result

    def _is_outermost(self) -> bool:
        if self._inside or self.paused or torch._C._current_graph_task_id() != -1:
            return False
        return self._owner.claim()

    @staticmethod
    def _creates_graph(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """`autograd.grad(outputs, inputs, grad_outputs, retain_graph, create_graph, ...)`."""
        return bool(kwargs.get("create_graph") or (len(args) > 1 and args[1]))


def _sequence(value: Any) -> tuple[Any, ...]:
    if value is None:
        return ()
    if isinstance(value, torch.Tensor):
        return (value,)
    return tuple(value) if isinstance(value, Sequence) else (value,)

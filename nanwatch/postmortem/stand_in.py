"""The optimizer's own step, run again on a stand-in: which operation made the parameter non-finite.

The parameter's value from before the step is gone (no shadow is kept), but the optimizer's state, its settings and, as
a rule, the gradient are still there. The stand-in parameter holds what is finite of the parameter and zero elsewhere;
for an update that divides by zero or adds infinity it makes no difference.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from nanwatch.postmortem.causes_optimizer import StepSettings
from nanwatch.postmortem.closeup import span_of
from nanwatch.postmortem.op_families import short
from nanwatch.postmortem.tracer import Event, Tracer
from nanwatch.probes.flight_recorder import Stack

_MANY_AT_ONCE = ("_fused_", "_foreach_")


@dataclass(frozen=True)
class StepFault:
    """What made the parameter non-finite."""

    event: Event | None
    """What the optimizer called; None where the step on the stand-in stayed finite."""
    elementary: Event | None
    """The same, where a fused kernel or one over many tensors hides it: found by the plain form of the step."""
    events: list[Event]
    """The plain step's operations, or those of the step as it is."""
    path: tuple[Event, ...]
    settings: StepSettings


def run_step_again(optimizer: Optimizer, parameter: torch.nn.Parameter, stack: Stack) -> StepFault:
    """Run the optimizer's step for one parameter under the tracer. Nothing of the training is touched.

    `stack` is where the program called the step.

    Raises: whatever a foreign optimizer raises on being copied or stepped; the caller reports it.
    """
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    tracer, stand_in = step_under_tracer(optimizer, group, parameter, stack)
    event, path = _origin(tracer, stand_in)
    if event is None:
        # A decay that multiplies by more than 1 shows in large values only.
        tracer, stand_in = step_under_tracer(optimizer, group, parameter, stack, large=True)
        event, path = _origin(tracer, stand_in)
        if event is not None and short(event.op) != "mul":
            event, path = None, ()
    elementary, events = event, tracer.events
    if event is not None and event.op.removeprefix("aten::").startswith(_MANY_AT_ONCE):
        plain: dict[str, Any] = {**group, **{k: False for k in group if k in {"fused", "foreach"}}}
        tracer, stand_in = step_under_tracer(optimizer, plain, parameter, stack)
        found, _ = _origin(tracer, stand_in)
        if found is not None:
            elementary, events = found, tracer.events
    return StepFault(event, elementary, events, path, _settings(group, parameter))


def step_under_tracer(
    optimizer: Optimizer, group: dict[str, Any], parameter: torch.nn.Parameter, stack: Stack, *, large: bool = False
) -> tuple[Tracer, torch.nn.Parameter]:
    """The frames below this one belong to the optimizer, those above to the post-mortem: tracer._BOUNDARIES.

    With `large`, what is infinite in the parameter is half of the type's largest number in the stand-in, else zero.
    """
    most = torch.finfo(parameter.dtype).max / 2 if large else 0.0
    stand_in = torch.nn.Parameter(torch.nan_to_num(parameter.detach(), 0.0, most, -most))
    gradient = parameter.grad
    stand_in.grad = torch.zeros_like(stand_in) if gradient is None else gradient.detach().clone()
    twin = _twin(optimizer, group, parameter, stand_in)
    tracer = Tracer(None)
    tracer.base = stack
    with tracer:
        _plain_step(twin)
    return tracer, stand_in


def _origin(tracer: Tracer, stand_in: torch.Tensor) -> tuple[Event | None, tuple[Event, ...]]:
    bad = [e for e in tracer.events if e.value != "finite"]
    last = tracer.maker_of(stand_in)
    origin = next((e for e in bad if all(s.state == "finite" for s in e.sources)), bad[0] if bad else None)
    return origin, tuple(e for e in bad if last is None or e.index <= last.index)


def _settings(group: dict[str, Any], parameter: torch.nn.Parameter) -> StepSettings:
    settings = {k: v for k, v in group.items() if k != "params" and _is_number(v)}
    nonfinite = next((k for k in sorted(settings, key="lr".__ne__) if not math.isfinite(float(settings[k]))), None)
    span = None if parameter.grad is None else span_of(parameter.grad)
    return StepSettings(settings, nonfinite, 0.0 if span is None else span.absmax)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | bool) or (isinstance(value, torch.Tensor) and value.numel() == 1)


def optimizer_state(optimizer: Optimizer, parameter: torch.nn.Parameter, name: str) -> dict[str, Any]:
    """What the optimizer holds for one parameter, and its settings: for the bundle."""
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    return {
        "class": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "settings": {k: v for k, v in group.items() if k != "params"},
        "parameter": name,
        "gradient": parameter.grad,
        "state": dict(optimizer.state.get(parameter, {})),
    }


def _twin(
    optimizer: Optimizer, group: dict[str, Any], parameter: torch.nn.Parameter, stand_in: torch.nn.Parameter
) -> Optimizer:
    """An optimizer of the same class and settings that holds the stand-in alone."""
    twin = object.__new__(type(optimizer))
    twin.__dict__.update(optimizer.__dict__)
    state = {k: _finite(copy.deepcopy(v)) for k, v in optimizer.state.get(parameter, {}).items()}
    twin.param_groups = [{**group, "params": [stand_in]}]
    twin.state = defaultdict(dict, {stand_in: state})
    return twin


def _finite(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return torch.nan_to_num(value, 0.0, 0.0, 0.0)
    return value


def _plain_step(optimizer: Optimizer) -> None:
    """`step` without the hooks and profiler ranges that torch wraps around it; a closure returns nothing new."""
    step = type(optimizer).step
    step = getattr(step, "__wrapped__", step)
    with torch.no_grad():
        step(optimizer)

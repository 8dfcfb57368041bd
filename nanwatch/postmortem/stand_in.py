"""The optimizer's own step, run again on a stand-in: which operation made the parameter non-finite.

Where no shadow was kept the parameter's value from before the step is gone, but the optimizer's state, its settings
and, as a rule, the gradient are still there. The stand-in parameter holds what is finite of the parameter and zero
elsewhere; for an update that divides by zero or adds infinity it makes no difference.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from nanwatch.postmortem.causes_optimizer import StepSettings
from nanwatch.postmortem.closeup import span_of
from nanwatch.postmortem.op_families import short
from nanwatch.postmortem.tracer import Event, Tracer
from nanwatch.postmortem.twin import Group, Start, step_under_tracer, twin_of
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
    group = group_of(optimizer, parameter)

    def run(*, one_by_one: bool = False, large: bool = False) -> tuple[Tracer, torch.Tensor]:
        stand_in = _stand_in(parameter, large=large)
        start = Start({id(parameter): stand_in}, _finite_state, _settings_as_found, one_by_one)
        return step_under_tracer(twin_of(optimizer, start), stack), stand_in

    tracer, stand_in = run()
    event, _ = origin_of(tracer, stand_in)
    if event is None:
        # A decay that multiplies by more than 1 shows in large values only.
        tracer, stand_in = run(large=True)
        event, _ = origin_of(tracer, stand_in)
        if event is None or short(event.op) != "mul":
            return StepFault(None, None, tracer.events, (), step_settings(group, parameter.grad))
    return fault_in(tracer, stand_in, lambda: run(one_by_one=True), step_settings(group, parameter.grad))


def fault_in(
    tracer: Tracer, updated: torch.Tensor, one_by_one: Callable[[], tuple[Tracer, torch.Tensor]], settings: StepSettings
) -> StepFault:
    """What a traced step did to `updated`; `one_by_one` runs it once more, for what a large kernel hides."""
    event, path = origin_of(tracer, updated)
    elementary, events = event, tracer.events
    if event is not None and event.op.removeprefix("aten::").startswith(_MANY_AT_ONCE):
        plain, updated = one_by_one()
        found, _ = origin_of(plain, updated)
        if found is not None:
            elementary, events = found, plain.events
    return StepFault(event, elementary, events, path, settings)


def origin_of(tracer: Tracer, updated: torch.Tensor) -> tuple[Event | None, tuple[Event, ...]]:
    """The first operation that made a non-finite value of finite ones, and all bad ones up to the update."""
    bad = [e for e in tracer.events if e.value != "finite"]
    last = tracer.maker_of(updated)
    origin = next((e for e in bad if all(s.state == "finite" for s in e.sources)), bad[0] if bad else None)
    return origin, tuple(e for e in bad if last is None or e.index <= last.index)


def group_of(optimizer: Optimizer, parameter: torch.Tensor) -> Group:
    return next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))


def step_settings(group: Group, gradient: torch.Tensor | None) -> StepSettings:
    settings = {k: v for k, v in group.items() if k != "params" and _is_number(v)}
    nonfinite = next((k for k in sorted(settings, key="lr".__ne__) if not math.isfinite(float(settings[k]))), None)
    span = None if gradient is None else span_of(gradient)
    return StepSettings(settings, nonfinite, 0.0 if span is None else span.absmax)


def optimizer_state(optimizer: Optimizer, parameter: torch.nn.Parameter, name: str) -> dict[str, Any]:
    """What the optimizer holds for one parameter, and its settings: for the bundle."""
    return {
        "class": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "settings": {k: v for k, v in group_of(optimizer, parameter).items() if k != "params"},
        "parameter": name,
        "gradient": parameter.grad,
        "state": dict(optimizer.state.get(parameter, {})),
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | bool) or (isinstance(value, torch.Tensor) and value.numel() == 1)


def _stand_in(parameter: torch.nn.Parameter, *, large: bool) -> torch.nn.Parameter:
    """With `large`, what is infinite in the parameter is half of the type's largest number, else zero."""
    most = torch.finfo(parameter.dtype).max / 2 if large else 0.0
    stand_in = torch.nn.Parameter(torch.nan_to_num(parameter.detach(), 0.0, most, -most))
    gradient = parameter.grad
    stand_in.grad = torch.zeros_like(stand_in) if gradient is None else gradient.detach().clone()
    return stand_in


def _finite_state(optimizer: Optimizer, parameter: torch.Tensor) -> dict[str, Any]:
    return {k: _finite(copy.deepcopy(v)) for k, v in optimizer.state.get(parameter, {}).items()}


def _settings_as_found(optimizer: Optimizer, group: Group) -> Group:
    return group


def _finite(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return torch.nan_to_num(value, 0.0, 0.0, 0.0)
    return value

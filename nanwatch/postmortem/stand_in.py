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

from nanwatch.postmortem.tracer import Event, Tracer


@dataclass(frozen=True)
class StepFault:
    """What made the parameter non-finite. `event` is None where the step on the stand-in stayed finite."""

    event: Event | None
    path: tuple[Event, ...]
    settings: dict[str, Any]
    nonfinite_setting: str | None
    zero_divisor: bool


def run_step_again(optimizer: Optimizer, parameter: torch.nn.Parameter) -> StepFault:
    """Run the optimizer's step for one parameter under the tracer. Nothing of the training is touched.

    Raises: whatever a foreign optimizer raises on being copied or stepped; the caller reports it.
    """
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    settings = {k: v for k, v in group.items() if k != "params" and isinstance(v, int | float | bool | torch.Tensor)}
    nonfinite = next((k for k, v in settings.items() if not math.isfinite(float(v))), None)
    stand_in = torch.nn.Parameter(torch.nan_to_num(parameter.detach(), 0.0, 0.0, 0.0))
    gradient = parameter.grad
    stand_in.grad = torch.zeros_like(stand_in) if gradient is None else gradient.detach().clone()
    twin = _twin(optimizer, group, parameter, stand_in)
    tracer = Tracer(None)
    with tracer:
        _plain_step(twin)
    bad = [e for e in tracer.events if e.value != "finite"]
    last = tracer.maker_of(stand_in)
    origin = next((e for e in bad if all(s.state == "finite" for s in e.sources)), bad[0] if bad else None)
    path = tuple(e for e in bad if last is None or e.index <= last.index)
    return StepFault(origin, path, settings, nonfinite, origin is not None and _divides_by_zero(origin))


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


def _divides_by_zero(event: Event) -> bool:
    names = ("tensor2", "other", "denom")
    return any(t.name.split("[")[0] in names and t.min is not None and t.min <= 0 for t in event.inputs)

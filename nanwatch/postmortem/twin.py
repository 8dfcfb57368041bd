"""An optimizer's step, run again on other tensors under the tracer. Nothing of the training is touched."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from nanwatch.postmortem.tracer import Tracer
from nanwatch.probes.flight_recorder import Stack

Group = dict[str, Any]

_DEEPEST = 3
"""Levels of lists and dictionaries in an optimizer's attributes that are copied."""


@dataclass(frozen=True)
class Start:
    """What a twin starts from."""

    stand_ins: Mapping[int, torch.nn.Parameter]
    """Id of a parameter -> what the twin updates in its place; the others are left out."""
    state: Callable[[Optimizer, torch.Tensor], dict[str, Any]]
    """What an optimizer (the one, or one that it wraps) held for a parameter: copies."""
    settings: Callable[[Optimizer, Group], Group]
    """The settings of a group."""
    one_by_one: bool = False
    """Without the kernels that do many operations, or many tensors, at once."""


def twin_of(optimizer: Optimizer, start: Start) -> Optimizer:
    """An optimizer of the same class that holds the stand-ins; those that it wraps are twins, too."""
    twin = object.__new__(type(optimizer))
    for name, value in vars(optimizer).items():
        # GradScaler lends a fused optimizer its factor for one step, which has divided the gradients by it.
        if name not in {"param_groups", "state", "grad_scale"}:
            twin.__dict__[name] = _own(value, start)
    twin.param_groups = []
    state: dict[Any, Any] = {}
    for group in optimizer.param_groups:
        held = [p for p in group["params"] if id(p) in start.stand_ins]
        settings = dict(start.settings(optimizer, group))
        if start.one_by_one:
            settings.update({k: False for k in settings if k in {"fused", "foreach"}})
        if held:
            twin.param_groups.append({**settings, "params": [start.stand_ins[id(p)] for p in held]})
        state.update({start.stand_ins[id(p)]: start.state(optimizer, p) for p in held})
    twin.state = defaultdict(dict, {p: s for p, s in state.items() if s})
    for name, value in vars(optimizer).items():
        if isinstance(value, Optimizer) and value.state is optimizer.state:
            vars(twin)[name].state = twin.state
    return twin


def step_under_tracer(twin: Optimizer, stack: Stack) -> Tracer:
    """The frames below this one belong to the optimizer, those above to the post-mortem: tracer._BOUNDARIES."""
    tracer = Tracer(None)
    tracer.base = stack
    with tracer:
        plain_step(twin)
    return tracer


def plain_step(optimizer: Optimizer) -> None:
    """`step` without the hooks and profiler ranges that torch wraps around it; a closure returns nothing new."""
    step = type(optimizer).step
    step = getattr(step, "__wrapped__", step)
    with torch.no_grad():
        step(optimizer)


def _own(value: Any, start: Start, depth: int = 0) -> Any:
    """An attribute as the twin has it: stand-ins for parameters, copies of what its step may change."""
    if isinstance(value, Optimizer):
        return twin_of(value, start)
    if isinstance(value, torch.Tensor):
        found = start.stand_ins.get(id(value))
        return value.detach().clone() if found is None else found
    if depth >= _DEEPEST:
        return value
    if type(value) in {list, tuple, set}:
        return type(value)(_own(v, start, depth + 1) for v in value)
    if type(value) in {dict, defaultdict}:
        copied = copy.copy(value)
        copied.clear()
        copied.update({_own(k, start, _DEEPEST): _own(v, start, depth + 1) for k, v in value.items()})
        return copied
    return value

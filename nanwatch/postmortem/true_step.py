"""The optimizer's own step, run again from the values that the shadow has kept: the very step, to the bit."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from nanwatch.postmortem.budget import why_no_room
from nanwatch.postmortem.causes_optimizer import StepSettings
from nanwatch.postmortem.provenance import upstream
from nanwatch.postmortem.rewind import Rewind
from nanwatch.postmortem.stand_in import StepFault, fault_in, group_of, optimizer_state, step_settings
from nanwatch.postmortem.tensors import same_elements, state_of
from nanwatch.postmortem.tracer import Tracer
from nanwatch.postmortem.twin import Group, Start, plain_step, step_under_tracer, twin_of
from nanwatch.probes.flight_recorder import Stack
from nanwatch.probes.shadow import Shadow, size_bytes

_COPIES = 4
"""Of a parameter, for a step of all of them: itself, its gradient, and its state."""


@dataclass(frozen=True)
class TrueStep:
    """One step of an optimizer, with what it started from."""

    optimizer: Optimizer
    parameter: torch.nn.Parameter
    """The one that the step made non-finite; it holds its value from before the step now."""
    gradient: torch.Tensor | None
    after: torch.Tensor
    """What the step has left in it."""
    shadow: Shadow

    @classmethod
    def of(
        cls, rewind: Rewind, optimizer: Optimizer, parameter: torch.nn.Parameter, gradient: torch.Tensor | None
    ) -> TrueStep | None:
        """None where the values from before the step are not known, or were not finite either."""
        after = rewind.after.get(id(parameter))
        if rewind.shadow is None or after is None or state_of(parameter) != "finite":
            return None
        if rewind.shadow.state_before(optimizer, parameter) is None:
            return None
        return cls(optimizer, parameter, gradient, after, rewind.shadow)

    @property
    def not_kept(self) -> tuple[str, ...]:
        """Entries of the optimizer's state that are as the step has left them."""
        before = self.shadow.state_before(self.optimizer, self.parameter)
        return () if before is None else before.not_kept

    def run(self, stack: Stack) -> tuple[StepFault, bool]:
        """What made the parameter non-finite, and whether the second run gave the same bits.

        Raises: whatever a foreign optimizer raises on being copied or stepped; the caller reports it.
        """
        group = self._settings(self.optimizer, group_of(self.optimizer, self.parameter))
        settings = step_settings(group, self.gradient)
        stand_ins: dict[int, torch.nn.Parameter] | None = None
        try:
            tracer, updated = self._one(stack)
            same = self._is_the_same(updated)
        except Exception:
            # The step of one parameter depends on others: a norm over all of them, a schedule of the optimizer's own.
            stand_ins = self._all()
            if stand_ins is None:
                raise
        else:
            stand_ins = None if same else self._all()
            if stand_ins is None:
                return fault_in(tracer, updated, lambda: self._one(stack, one_by_one=True), settings), same
        plain_step(twin_of(self.optimizer, Start(stand_ins, self._state, self._settings)))
        return self._fault_among_all(stack, settings), self._is_the_same(stand_ins[id(self.parameter)])

    def state(self, name: str) -> dict[str, Any]:
        """What the optimizer held for the parameter before the step: for the bundle."""
        found = optimizer_state(self.optimizer, self.parameter, name)
        group = group_of(self.optimizer, self.parameter)
        settings = {k: v for k, v in self._settings(self.optimizer, group).items() if k != "params"}
        state = self._state(self.optimizer, self.parameter)
        return {**found, "settings": settings, "gradient": self.gradient, "state": state}

    def _one(self, stack: Stack, *, one_by_one: bool = False) -> tuple[Tracer, torch.Tensor]:
        stand_in = self._stand_in(self.parameter)
        start = Start({id(self.parameter): stand_in}, self._state, self._settings, one_by_one)
        return step_under_tracer(twin_of(self.optimizer, start), stack), stand_in

    def _fault_among_all(self, stack: Stack, settings: StepSettings) -> StepFault:
        stand_ins = self._all()
        assert stand_ins is not None
        start = Start(stand_ins, self._state, self._settings, one_by_one=True)
        tracer = step_under_tracer(twin_of(self.optimizer, start), stack)
        last = tracer.maker_of(stand_ins[id(self.parameter)])
        if last is None or last.value == "finite":
            return StepFault(None, None, tracer.events, (), settings)
        reached = upstream(tracer.events, [last])
        bad = [tracer.events[i] for i in sorted(reached)]
        event = next((e for e in bad if all(s.state == "finite" for s in e.sources)), bad[0])
        return StepFault(event, event, tracer.events, tuple(bad), settings)

    def _all(self) -> dict[int, torch.nn.Parameter] | None:
        """Stand-ins for all parameters of the optimizer; None where one of them was not kept or there is no room."""
        parameters = [p for g in self.optimizer.param_groups for p in g["params"]]
        if any(self.shadow.state_before(self.optimizer, p) is None for p in parameters):
            return None
        if why_no_room(parameters, extra_bytes=_COPIES * sum(map(size_bytes, parameters))) is not None:
            return None
        return {id(p): self._stand_in(p) for p in parameters}

    def _stand_in(self, parameter: torch.nn.Parameter) -> torch.nn.Parameter:
        # A parameter without a gradient is left out by every optimizer.
        gradient = self.gradient if parameter is self.parameter else parameter.grad
        stand_in = torch.nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
        stand_in.grad = None if gradient is None else gradient.detach().clone()
        return stand_in

    def _state(self, optimizer: Optimizer, parameter: torch.Tensor) -> dict[str, Any]:
        before = self.shadow.state_before(optimizer, parameter)
        found = optimizer.state.get(parameter, {})
        if before is None:
            return copy.deepcopy(dict(found))
        kept = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in before.entries.items()}
        return {**{k: copy.deepcopy(found[k]) for k in before.not_kept if k in found}, **kept}

    def _settings(self, optimizer: Optimizer, group: Group) -> Group:
        before = next((b for p in group["params"] if (b := self.shadow.state_before(optimizer, p))), None)
        return group if before is None else {**group, **before.settings}

    def _is_the_same(self, updated: torch.Tensor) -> bool:
        return same_elements(updated.detach(), self.after)

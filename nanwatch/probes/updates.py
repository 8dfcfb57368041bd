"""What becomes of the parameters between a backward and the end of the optimizer's step.

The program may put gradients of its own in the place of those that backward made (gradient surgery, per-sample
clipping), and the step itself may make a parameter non-finite.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

import torch
from torch.optim.optimizer import Optimizer

from nanwatch.probes.flight_recorder import version
from nanwatch.probes.statistics import which_nonfinite
from nanwatch.probes.watched import WatchedModels

LOOKS_AT = 8
"""Parameters whose gradient is compared by identity; a program that sets gradients by hand sets them all."""


class UpdateCheck:
    """Remembers which gradients have been measured and which parameters were not finite from the beginning."""

    def __init__(self, watched: WatchedModels) -> None:
        self._watched = watched
        self.spoils = False
        """The program changes gradients in place between backward and step: what it does there is recorded."""
        self._measured: dict[int, int] = {}
        """id of a gradient -> its version when it was looked at."""
        self._known_bad: set[int] = set()

    def attached(self) -> None:
        """Parameters that hold infinities on purpose (a frozen mask) are left alone from here on."""
        parameters = [p for _, p in self._watched.named_parameters() if not torch.nn.parameter.is_lazy(p)]
        self._known_bad = {id(parameters[i]) for i in which_nonfinite(parameters)}

    def measured(self) -> None:
        """The gradients as they are now have been looked at."""
        self._measured = _versions(self._watched.parameters)

    def has_new_gradients(self) -> bool:
        """Whether the backward that has just ended has given a watched parameter a gradient."""
        now = _versions(self._watched.parameters[:LOOKS_AT])
        return any(self._measured.get(key) != v for key, v in now.items())

    def gradients_by_hand(self, optimizer: Optimizer, *, by_torch: bool) -> list[torch.Tensor | None]:
        """An optimizer's gradients, where the program has replaced or changed those that were measured; else nothing.

        `by_torch`: clipping or GradScaler has changed them in this step, which is no reason to look again.
        """
        now = _versions(self._some_of(optimizer))
        replaced = not now.keys() <= self._measured.keys()
        changed = not by_torch and any(self._measured.get(key) != v for key, v in now.items())
        self.spoils |= changed or replaced
        if not (replaced or changed):
            return []
        self._measured |= now
        mine = _ids(optimizer)
        return [p.grad if id(p) in mine else None for p in self._watched.parameters]

    def _some_of(self, optimizer: Optimizer) -> list[torch.nn.Parameter]:
        """The first watched parameters of an optimizer."""
        mine = _ids(optimizer)
        return list(islice((p for p in self._watched.parameters if id(p) in mine), LOOKS_AT))

    def look_for_hands(self, optimizer: Optimizer) -> None:
        """Whether gradients were replaced inside of the step (in its closure): then what does so is recorded."""
        now = _versions(self._some_of(optimizer))
        self.spoils |= not now.keys() <= self._measured.keys()

    @staticmethod
    def spoilt_gradients(parameters: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """The gradients of these parameters that are not finite."""
        gradients = [p.grad for p in parameters.values() if p.grad is not None]
        return tuple(gradients[i] for i in which_nonfinite(gradients))

    def newly_bad(self, optimizer: Optimizer) -> dict[str, torch.Tensor]:
        """The watched parameters of an optimizer that were finite and are not any more. Cost: one read."""
        ids = self._watched.ids
        parameters = [p for g in optimizer.param_groups for p in g["params"] if id(p) in ids]
        bad = [parameters[i] for i in which_nonfinite(parameters)]
        bad = [p for p in bad if id(p) not in self._known_bad]
        if not bad:
            return {}
        names = {id(p): name for name, p in self._watched.named_parameters()}
        return {names[id(p)]: p for p in bad}


def _ids(optimizer: Optimizer) -> set[int]:
    return {id(p) for g in optimizer.param_groups for p in g["params"]}


def _versions(parameters: Iterable[torch.nn.Parameter]) -> dict[int, int]:
    """Id of a gradient -> its version."""
    return {id(g): version(g) for p in parameters if (g := p.grad) is not None}

"""What becomes of the parameters between a backward and the end of the optimizer's step.

The program may put gradients of its own in the place of those that backward made (gradient surgery, per-sample
clipping), and the step itself may make a parameter non-finite.
"""

from __future__ import annotations

import torch
from torch.optim.optimizer import Optimizer

from nanwatch.probes.statistics import which_nonfinite
from nanwatch.probes.watched import WatchedModels

LOOKS_AT = 8
"""Parameters whose gradient is compared by identity; a program that sets gradients by hand sets them all."""


class UpdateCheck:
    """Remembers which gradients have been measured and which parameters were not finite from the beginning."""

    def __init__(self, watched: WatchedModels) -> None:
        self._watched = watched
        self._measured: set[int] = set()
        self._known_bad: set[int] = set()

    def attached(self) -> None:
        """Parameters that hold infinities on purpose (a frozen mask) are left alone from here on."""
        parameters = [p for _, p in self._watched.named_parameters() if not torch.nn.parameter.is_lazy(p)]
        self._known_bad = {id(parameters[i]) for i in which_nonfinite(parameters)}

    def measured(self) -> None:
        """The gradients as they are now have been looked at."""
        self._measured = {id(p.grad) for p in self._watched.parameters[:LOOKS_AT] if p.grad is not None}

    def gradients_by_hand(self) -> list[torch.Tensor | None]:
        """All gradients, where the program has replaced those that were measured; else nothing."""
        now = {id(p.grad) for p in self._watched.parameters[:LOOKS_AT] if p.grad is not None}
        if now <= self._measured:
            return []
        self._measured = now
        return [p.grad for p in self._watched.parameters]

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

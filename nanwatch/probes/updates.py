"""What becomes of the parameters between a backward and the end of the optimizer's step.

The program may put gradients of its own in the place of those that backward made (gradient surgery, per-sample
clipping), and the step itself may make a parameter non-finite.
"""

from __future__ import annotations

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
        self._measured = self._now()

    def gradients_by_hand(self, *, by_torch: bool) -> list[torch.Tensor | None]:
        """All gradients, where the program has replaced or changed those that were measured; else nothing.

        `by_torch`: clipping or GradScaler has changed them in this step, which is no reason to look again.
        """
        now = self._now()
        replaced = not now.keys() <= self._measured.keys()
        changed = not by_torch and any(self._measured.get(key) != v for key, v in now.items())
        self.spoils |= changed and not replaced
        if not (replaced or changed):
            return []
        self._measured = now
        return [p.grad for p in self._watched.parameters]

    def _now(self) -> dict[int, int]:
        gradients = [p.grad for p in self._watched.parameters[:LOOKS_AT]]
        return {id(g): version(g) for g in gradients if g is not None}

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

"""The parameters as they were before the optimizer's step, for as long as a post-mortem takes."""

from __future__ import annotations

from collections.abc import Iterable
from types import TracebackType
from typing import Self

import torch
from torch.optim.optimizer import Optimizer

from nanwatch.postmortem.budget import why_no_room
from nanwatch.probes.shadow import Shadow, size_bytes
from nanwatch.probes.trip import Trip
from nanwatch.probes.watched import WatchedModels


class Rewind:
    """Puts the shadow's values into the parameters; on leaving they hold, to the bit, what they held.

    They are written in place and without counting up their version: what views them, or has saved them for a backward
    of its own, does not notice. Without a shadow nothing happens.
    """

    def __init__(self, shadow: Shadow | None, watched: WatchedModels) -> None:
        self.shadow = shadow
        self.after: dict[int, torch.Tensor] = {}
        """Id of a parameter that was rewound -> what the step had left in it."""
        self._watched = watched
        self._rewound: list[torch.Tensor] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()

    def undo(self) -> None:
        """Put back what the parameters held."""
        self._write(self._rewound, [self.after[id(p)] for p in self._rewound])
        self.after, self._rewound = {}, []

    def before_step(self, trip: Trip) -> None:
        """Undo the updates that came after the forward of the trip: none, where it was seen before the step."""
        if self.shadow is None or (trip.backward is None and trip.optimizer is None):
            return
        parameters = [p for _, p in self._watched.named_parameters() if id(p) in self.shadow.stepped]
        self._back(parameters)
        if trip.optimizer is not None:
            self.step_of(trip.optimizer)

    def step_of(self, optimizer: Optimizer) -> None:
        """Undo the last step of an optimizer."""
        self._back(p for g in optimizer.param_groups for p in g["params"])

    def _back(self, parameters: Iterable[torch.Tensor]) -> None:
        assert self.shadow is not None
        found = [(p, self.shadow.before(p)) for p in parameters if id(p) not in self.after]
        known = [(p, before) for p, before in found if before is not None and before.shape == p.shape]
        extra = sum(size_bytes(p) for p, _ in known)
        if not known or why_no_room([p for p, _ in known], extra_bytes=extra) is not None:
            return
        self.after.update({id(p): p.detach().clone() for p, _ in known})
        self._rewound += [p for p, _ in known]
        self._write([p for p, _ in known], [before for _, before in known])

    def _write(self, parameters: list[torch.Tensor], values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.data.copy_(value)

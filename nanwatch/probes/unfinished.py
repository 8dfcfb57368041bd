"""Losses that no backward came for: the program looked at one and skipped the batch, or ended.

The last scalar that the loss code made is kept by value. When the next forward begins and it was not finite, the batch
may have been skipped; when a backward ends that did not need it, it was. What is left when the program ends is why.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from nanwatch.probes.flight_recorder import Call, FlightRecorder, Path, Ref, Stack, tensors_in
from nanwatch.probes.torch_names import without_users_modes

MAX_SUSPECTS = 4
"""Non-finite losses of one segment that are remembered; each keeps its batch alive."""
MANY = 20
"""Losses skipped in a row after which the program is not training any more."""
_LOSS_NAMES = ("loss", "losses")


@dataclass(frozen=True, slots=True)
class Loss:
    """The value of a loss, and where in the recorded program it was made."""

    ref: Ref
    value: torch.Tensor
    """Detached: it holds one element, no graph."""
    trains: bool
    """The forward ran in training mode."""

    @property
    def is_bad(self) -> bool:
        return not math.isfinite(float(self.value))


class Unfinished:
    """Follows the losses of the current segment."""

    def __init__(
        self, recorder: FlightRecorder, on_many_skipped: Callable[[], None], on_broke: Callable[[], None]
    ) -> None:
        self.last: Loss | None = None
        self.broken: Call | None = None
        """The recorded call that raised last."""
        self.looked = False
        """The program has read a value on the host, so that reading the loss makes it wait no longer."""
        self.skipped = 0
        """Bad losses so far that the program left aside and trained on."""
        self.in_a_row = 0
        self._recorder = recorder
        self._on_many_skipped = on_many_skipped
        self._on_broke = on_broke
        self._suspects: list[Loss] = []
        self._trains = True

    def made(self, call: Call, output: Any) -> None:
        """A recorded call has returned."""
        if not call.is_entry:
            if isinstance(output, torch.Tensor) and _may_be_loss(output):
                self._keep(call, (), output)
            return
        # A model may make the loss itself.
        self._trains = call.training or call.module is None
        scalars = [(p, t) for p, t in tensors_in(output) if _may_be_loss(t)]
        named = [(p, t) for p, t in scalars if p and getattr(p[-1], "name", p[-1]) in _LOSS_NAMES]
        for path, tensor in named[:1] or scalars[:1]:
            self._keep(call, path, tensor)

    def broke(self, call: Call) -> None:
        """A recorded call has raised."""
        self.broken = call
        self._on_broke()

    def looked_at(self) -> None:
        """The program has read a value on the host."""
        self.looked = True

    def _keep(self, call: Call, path: Path, tensor: torch.Tensor) -> None:
        with without_users_modes():
            value = tensor.detach()
        self._forget_last()
        # The program may let go of a loss that it has looked at before its next forward begins.
        self._recorder.kept.add(call.index)
        self.last = Loss(Ref(call.index, path), value, self._trains)

    def next_forward(self) -> None:
        """Another forward begins, and no backward was made of the last loss (yet)."""
        self.broken = None
        loss = self.last
        self._forget_last()
        readable = loss is not None and (loss.value.device.type == "cpu" or self.looked)
        self.looked = False
        if loss is None or not readable or not loss.is_bad:
            return
        self.in_a_row += 1
        if len(self._suspects) < MAX_SUSPECTS:
            self._suspects.append(loss)
            self._recorder.kept.add(loss.ref.index)
        if self.in_a_row == MANY:
            self._on_many_skipped()

    def _forget_last(self) -> None:
        if self.last is not None:
            self._recorder.kept.discard(self.last.ref.index)
            self.last = None

    def backward_done(self, roots: tuple[torch.Tensor, ...]) -> list[Loss]:
        """A backward is over: the bad losses that it did not need were skipped."""
        self.last, self.broken, self.looked = None, None, False
        suspects, self._suspects = self._suspects, []
        self._recorder.kept.clear()
        self.in_a_row = 0
        if not suspects:
            return []
        used = self._recorder.ancestors(roots)
        skipped = [s for s in suspects if s.ref.index not in used]
        self.skipped += len(skipped)
        return skipped

    def pending(self, *, raised: bool) -> Loss | None:
        """The bad loss that the training ended with, if it did.

        Without an exception it counts only where the program has not shown that it skips such losses and goes on.
        """
        candidates = [*([self.last] if self.last is not None else []), *self._suspects]
        bad = next((c for c in candidates if c.is_bad), None)
        return bad if raised or (bad is not None and bad.trains and not self.skipped) else None

    def last_stack(self) -> Stack:
        """Where the program was when it last made something that no backward has come for; empty if it has not."""
        calls = self._recorder.current.calls
        call = self.broken or (calls[-1] if calls else None)
        return () if call is None else call.stack


def _may_be_loss(tensor: torch.Tensor) -> bool:
    return tensor.grad_fn is not None and tensor.numel() == 1 and tensor.is_floating_point()

"""The verdict on each step: finite or not, what and where first. Decided before the optimizer's step.

The events of the other probes meet here: a backward gives loss and gradients, an optimizer step closes the StepRecord.
What happens after a trip is not decided here: `on_trip` is called, once an onset.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed
from torch.optim.optimizer import Optimizer

from nanwatch.probes.backward import BackwardCall
from nanwatch.probes.buffers import BufferCheck
from nanwatch.probes.flight_recorder import FlightRecorder, version
from nanwatch.probes.gradient_hooks import GradientHooks
from nanwatch.probes.live_slot import LiveSlot
from nanwatch.probes.onset import Onset
from nanwatch.probes.optimizer import OptimizerProbe, learning_rate
from nanwatch.probes.outside import user_stack
from nanwatch.probes.overflow import OverflowCheck
from nanwatch.probes.scaling import ScalingProbe
from nanwatch.probes.statistics import measure, plain
from nanwatch.probes.torch_names import without_users_modes
from nanwatch.probes.trip import UNKNOWN, OpenStep, Trip, loss_seen, step_record, value_of
from nanwatch.probes.unfinished import Loss, Unfinished
from nanwatch.probes.updates import UpdateCheck
from nanwatch.probes.watched import WatchedModels
from nanwatch.records import STATISTICS, Policy, Record, Seen

ZEROS_EVERY = 16
REFRESH_EVERY = 16
ANOMALY = "returned nan values in its"
"""How torch.autograd.detect_anomaly words its error."""
BY_HAND_LOOKS_AT = 8
"""Parameters whose change tells a step made without an optimizer."""
DEVICE_PARAMETER_CHECK_EVERY = 10

_NAN = STATISTICS.index("nan")


class Tripwire:
    """Takes the events of one training thread; emits a StepRecord a step and at most one trip an onset."""

    def __init__(
        self,
        watched: WatchedModels,
        recorder: FlightRecorder,
        scaling: ScalingProbe,
        hooks: GradientHooks,
        live: LiveSlot,
        *,
        policy: Policy,
        rank: int,
        start_step: int,
        emit: Callable[[Record], None],
        on_trip: Callable[[Trip], None],
        is_overflow_real: Callable[[Trip], bool],
        on_fold: Callable[[int, int, bool], None],
        on_unrecorded: Callable[[], None],
    ) -> None:
        self.stop_with: BaseException | None = None
        self.capture_reason: str | None = None
        self.optimizer: OptimizerProbe
        self.policy: Policy = policy
        self._watched = watched
        self._recorder = recorder
        self._scaling = scaling
        self._hooks = hooks
        self.unfinished = Unfinished(recorder, self._many_skipped, live.drop)
        recorder.listener = self.unfinished
        self._updates = UpdateCheck(watched)
        self._buffers = BufferCheck(watched.models.values, watched.placed_buffers)
        self._rank = rank
        self._start_step = start_step
        self._emit = emit
        self._on_trip = on_trip
        self._overflow = OverflowCheck(recorder, is_overflow_real)
        self._onset = Onset(on_trip, on_fold, live)
        self._on_unrecorded = on_unrecorded
        self._step = OpenStep()
        self.in_backward = False
        self._advanced_in_backward: Optimizer | None = None
        self._last_emit_s = time.perf_counter()
        self._names_id = -1
        self._versions = -1
        self._stale: dict[int, tuple[int, int]] = {}
        self._dropped_gradients: dict[int, list[tuple[torch.nn.Parameter, torch.Tensor]]] = {}

    def attached(self) -> None:
        """A model has been added: what is not finite in it already is not this training's doing."""
        with without_users_modes():
            self._updates.attached()
            self._buffers.newly_bad()

    # --- backward ---

    def before_backward(self, call: BackwardCall) -> None:
        if self._hooks.installed and not self._onset.open:
            # The optimizer steps inside of this backward: afterwards the parameters are not what the loss came from.
            backward = self._unscaled(call)
            loss = value_of(backward.tensors)
            if not math.isfinite(loss):
                self._onset.seen(self._trip_for(loss_seen(loss), backward, loss))
        if self._stale:
            # What clipping or a scaler has done to them since is not this backward's doing.
            now = {k: self._watched.parameters[k].grad for k in self._stale if k < len(self._watched.parameters)}
            self._stale = {k: (id(g), version(g)) for k, g in now.items() if g is not None}
        self.in_backward = True

    def backward_raised(self, call: BackwardCall, error: BaseException) -> None:
        """The program's own anomaly mode stops at a NaN that we would have reported a moment later."""
        self.in_backward = False
        backward = self._unscaled(call)
        loss = value_of(backward.tensors)
        bad_loss = not math.isfinite(loss)
        try:
            if bad_loss or (isinstance(error, RuntimeError) and ANOMALY in str(error)):
                seen = loss_seen(loss) if bad_loss else Seen("grad", "nan", (), 1)
                self._onset.seen(replace(self._trip_for(seen, backward, loss), anomaly=not bad_loss))
        finally:
            # The error that is on its way is the user's own; ours would hide it.
            self.stop_with = None
            self.unfinished.backward_done(call.tensors)
            self._recorder.end_segment()

    def after_backward(self, call: BackwardCall) -> None:
        began = time.perf_counter()
        self.in_backward = False
        self._notice_step_by_hand()
        step = self._step
        backward = self._unscaled(call)
        if not self._recorder.current.calls:
            self._on_unrecorded()
            # A second loss without a forward of its own: from now on its code is recorded as well.
            self._updates.spoils |= self._updates.has_new_gradients()
        gradients = self._gradients(call)
        count_zeros = self._recorder.step % ZEROS_EVERY == 0
        with without_users_modes():
            stats_KS, bad = measure(gradients, count_zeros=count_zeros, exact=not self._onset.open)
            loss = value_of(backward.tensors)
        bad = self._new_ones(bad, gradients)
        self._updates.measured()
        step.stats_KS = stats_KS
        step.losses += loss
        step.own_s += time.perf_counter() - began
        bad_loss = not math.isfinite(loss) and bool(backward.roots)
        trip = self._trip(backward, loss, bad, stats_KS, bad_loss=bad_loss)
        if trip is not None and bad and not (bad_loss or self._onset.open or self._overflow.is_real(trip)):
            step.overflow, bad = True, []
        step.bad_loss |= bad_loss
        step.bad_grads |= bool(bad)
        if not (bad_loss or bad or self._onset.open):
            trip = self._bad_buffers(backward, loss) or trip
        try:
            self._leave_aside(call)
            if trip is not None and self.capture_reason is not None:
                self._capture(trip)
            if trip is not None and trip.seen.where != "none" and (bad_loss or bad or step.bad_params):
                self._onset.seen(trip)
                self._stop_if_asked()
        finally:
            step.micro_steps += 1
            self._recorder.end_segment()
            if self._advanced_in_backward is not None:
                optimizer, self._advanced_in_backward = self._advanced_in_backward, None
                self._hooks.install(self._watched.parameters)
                self._check_parameters(optimizer)
                self._complete(optimizer)

    def _bad_buffers(self, backward: BackwardCall, loss: float) -> Trip | None:
        """Running statistics and the like that this forward has spoilt although loss and gradients are fine."""
        if self._watched.on_device and self._recorder.step % DEVICE_PARAMETER_CHECK_EVERY:
            return None
        with without_users_modes():
            found = self._buffers.newly_bad()
            value: Literal["nan", "inf"] = "nan" if any(bool(b.isnan().any()) for b in found.values()) else "inf"
        if not found:
            return None
        self._step.bad_params = True
        return self._trip_for(Seen("parameter", value, tuple(found)[:20], len(found)), backward, loss)

    def _leave_aside(self, call: BackwardCall) -> None:
        """Bad losses that the program has looked at and skipped are told, and are no incident."""
        for loss in self.unfinished.backward_done(call.tensors):
            self._on_trip(self._unfinished_trip("skipped", loss))

    def _unfinished_trip(self, kind: Literal["nonfinite", "skipped"], loss: Loss) -> Trip:
        value = float(loss.value)
        return replace(self._trip_for(loss_seen(value), None, value), kind=kind, loss_at=loss.ref)

    def _many_skipped(self) -> None:
        """The program skips batch after batch: it does not train any more."""
        if not self._onset.open:
            loss = self.unfinished.pending(raised=True)
            if loss is not None:
                self._onset.seen(self._unfinished_trip("nonfinite", loss))
                self._stop_if_asked()

    def ended(self, error: BaseException | None) -> None:
        """The program ends, or has raised: what no backward came for is the last chance to tell why."""
        if self._onset.open or self.in_backward:
            return
        loss = self.unfinished.pending(raised=error is not None)
        if loss is not None:
            self._onset.seen(self._unfinished_trip("nonfinite", loss))
        elif error is not None and (self.unfinished.broken is not None or self._recorder.current.calls):
            # Not an onset yet: the replay will tell whether a non-finite value has made it raise.
            seen = Seen("output", "nan", (), 1)
            self._on_trip(replace(self._trip_for(seen, None, UNKNOWN), kind="raised", reason=type(error).__name__))

    def _notice_step_by_hand(self) -> None:
        """No optimizer of torch has stepped, and yet parameters changed since the last backward: `p -= lr * p.grad`."""
        if self.optimizer.seen:
            return
        versions = sum(version(p) for p in self._watched.parameters[:BY_HAND_LOOKS_AT])
        if self._step.micro_steps and versions != self._versions:
            self.optimizer.completed += 1
            self._complete(None)
        self._versions = versions

    def _unscaled(self, call: BackwardCall) -> BackwardCall:
        """The call, from the loss as it was before GradScaler multiplied it."""
        roots = tuple(r if (u := self._scaling.unscaled(r)) is None else u for r in call.tensors)
        return BackwardCall(roots, call.seeds, call.gradients)

    def _gradients(self, call: BackwardCall) -> list[torch.Tensor | None]:
        if self._recorder.step % REFRESH_EVERY == 0:
            self._watched.refresh()
        if self._watched.names_id != self._names_id:
            self._names_id = self._watched.names_id
            self._emit(self._watched.names_record())
        kept = call.gradients
        if kept is None and self._hooks.installed:
            kept = self._hooks.collect()
        if kept is not None:
            return [kept.get(id(p)) for p in self._watched.parameters]
        return [p.grad for p in self._watched.parameters]

    def _new_ones(self, bad: list[int], gradients: list[torch.Tensor | None]) -> list[int]:
        """Without the gradients that were bad before and were not touched since: nobody trains that part any more."""
        found = {k: g for k in bad if (g := gradients[k]) is not None}
        seen = {k: (id(g), version(g)) for k, g in found.items()}
        new = [k for k in bad if seen[k] != self._stale.get(k)]
        self._stale = seen
        return new

    def _trip(
        self, backward: BackwardCall, loss: float, bad: list[int], stats_KS: NDArray[np.float32], *, bad_loss: bool
    ) -> Trip | None:
        """What is handed on; None where all is well and nobody has asked for a bundle."""
        if bad_loss:
            seen = loss_seen(loss)
        elif bad:
            nan = bool(np.nansum(stats_KS[bad, _NAN]))
            seen = Seen("grad", "nan" if nan else "inf", tuple(self._watched.names[k] for k in bad[:20]), len(bad))
        elif self.capture_reason is not None:
            seen = Seen("none", "none")
        else:
            return None
        return self._trip_for(seen, backward, loss)

    def _trip_for(self, seen: Seen, backward: BackwardCall | None, loss: float) -> Trip:
        scaled = self._scaling.in_use
        return Trip(
            "nonfinite", self._recorder.step, self._step.micro_steps, seen, backward, loss, scaled,
            self._scaling.scale(wait=scaled),
        )  # fmt: skip

    # --- verdict ---

    def _stop_if_asked(self) -> None:
        if self.stop_with is not None:
            error, self.stop_with = self.stop_with, None
            raise error

    def _capture(self, trip: Trip) -> None:
        reason, self.capture_reason = self.capture_reason, None
        self._on_trip(replace(trip, kind="capture", reason=reason))

    # --- optimizer ---

    def before_step(self, optimizer: Optimizer) -> None:
        if not self.in_backward:
            self._check_gradients_set_by_hand(optimizer)
        # A bad loss is one rank's alone, gradients are the same on all: what only one knows must not part them.
        poisoned = self._step.bad_grads or (self._step.bad_loss and not _several_ranks())
        if self.policy == "skip" and poisoned:
            # Every optimizer of torch leaves a parameter without gradient, and its state, untouched.
            kept = [(p, p.grad) for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
            for p, _ in kept:
                p.grad = None
            self._dropped_gradients[id(optimizer)] = kept
            self._step.update_skipped = True

    def after_step(self, optimizer: Optimizer, *, completed: int, advanced: bool) -> None:
        for p, gradient in self._dropped_gradients.pop(id(optimizer), ()):
            p.grad = gradient
        if self.in_backward:
            # What the loss and the gradients were is known when the backward is over.
            if advanced:
                self._advanced_in_backward = optimizer
            return
        self._updates.look_for_hands(optimizer)
        self._check_parameters(optimizer)
        if advanced:
            self._complete(optimizer)
        self._stop_if_asked()

    @property
    def records_updates(self) -> bool:
        """What the program does between backward and step is a part of what its gradients are made of."""
        return self._updates.spoils

    def took(self, own_s: float) -> None:
        """Another probe has worked in this step: its time is a part of the overhead."""
        self._step.own_s += own_s

    def scaler_skipped(self) -> None:
        self._step.scaler_skipped = True

    def _check_gradients_set_by_hand(self, optimizer: Optimizer) -> None:
        """Gradients that no backward of ours has made: the program's own code may have spoilt them."""
        by_torch = self._scaling.clip is not None or self._scaling.in_use
        gradients = self._updates.gradients_by_hand(optimizer, by_torch=by_torch)
        if not gradients or self._onset.open:
            return
        with without_users_modes():
            stats_KS, bad = measure(gradients, count_zeros=False)
        self._step.stats_KS = stats_KS
        if bad:
            self._step.bad_grads = True
            roots = tuple(g for k in bad if (g := gradients[k]) is not None)
            trip = self._trip(BackwardCall(roots, ()), UNKNOWN, bad, stats_KS, bad_loss=False)
            if trip is not None:
                self._onset.seen(replace(trip, by_hand=True, after_backward=self._step.micro_steps > 0))

    def _check_parameters(self, optimizer: Optimizer) -> None:
        """Whether this step made a parameter non-finite although loss and gradients were fine."""
        step = self._step
        if self._onset.open or step.bad_loss or step.bad_grads:
            return
        if self._watched.on_device and self._recorder.step % DEVICE_PARAMETER_CHECK_EVERY:
            return  # reading the answer makes the host wait, so not at every step
        began = time.perf_counter()
        with without_users_modes():
            bad = self._updates.newly_bad(optimizer)
            value: Literal["nan", "inf"] = "nan" if any(bool(plain(p).isnan().any()) for p in bad.values()) else "inf"
        step.own_s += time.perf_counter() - began
        if not bad:
            return
        step.bad_params = True
        seen = Seen("parameter", value, tuple(bad)[:20], len(bad))
        spoilt = self._updates.spoilt_gradients(bad)
        if spoilt and any(self._recorder.find(g) is not None for g in spoilt):
            # Put there inside of the step itself, by a callback that runs in its closure.
            trip = self._trip_for(replace(seen, where="grad"), BackwardCall(spoilt, ()), UNKNOWN)
            self._onset.seen(replace(trip, by_hand=True, after_backward=True))
            return
        self._onset.seen(
            Trip("nonfinite", self._recorder.step, max(0, step.micro_steps - 1), seen, None, optimizer=optimizer,
                 stack=user_stack(sys._getframe(1)))
        )  # fmt: skip

    def _complete(self, optimizer: Optimizer | None) -> None:
        """Close the books on this step."""
        now = time.perf_counter()
        step, number = self._step, self._recorder.step
        self._emit(
            step_record(
                step, rank=self._rank, number=number, start_step=self._start_step, names_id=self._names_id,
                tensors=len(self._watched.parameters), duration_s=now - self._last_emit_s,
                lr=UNKNOWN if optimizer is None else learning_rate(optimizer), scaling=self._scaling,
            )
        )  # fmt: skip
        self._onset.step_over(number, bad=step.bad_loss or step.bad_grads or step.bad_params)
        self._last_emit_s, self._step = now, OpenStep()
        self._recorder.step = self.optimizer.completed
        self._scaling.new_step()


def _several_ranks() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1

"""The training traced while it runs, for the few steps after one that gave another result when it was run again.

What a replay cannot show (a race, faulty hardware, state outside of the evidence) may show again. Armed, the tracer is
on this thread's stack from the first forward of a backward until that has returned, for a few backwards.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import nn

from nanwatch.postmortem.live_tracer import LiveTracer
from nanwatch.postmortem.module_names import named
from nanwatch.postmortem.replay import batch_size_of
from nanwatch.postmortem.tensors import nonfinite_among
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.entry import Hook, outside_of_compiled
from nanwatch.probes.flight_recorder import Call
from nanwatch.probes.torch_names import pop_dispatch_mode, push_dispatch_mode
from nanwatch.probes.watched import clean

BACKWARDS = 3
"""That are traced, at most, after a step that does not repeat."""


class LiveTrace:
    """Armed and disarmed any number of times; see nanwatch.probes.live_slot for who calls what."""

    def __init__(self, probes: Probes) -> None:
        self.modules: list[str] = []
        self.calls: Counter[str] = Counter()
        self.first_incident: str | None = None
        """The incident that it was armed for."""
        self._probes = probes
        self._left = 0
        self._names = ExitStack()
        self._tracer: LiveTracer | None = None
        self._of_thread = threading.local()

    def arm(self) -> None:
        """Trace the next backwards, if this is not being done already."""
        self.first_incident = None
        if self._left:
            return
        self._left = BACKWARDS
        self.modules.clear()
        self._names.enter_context(named(self._nameable(), self, Hook))
        self._probes.live.armed = self

    def bad_state(self) -> set[str]:
        """Names of the parameters that are not finite: with such a one every step is bad, and tells nothing."""
        with torch.no_grad():
            return nonfinite_among(dict(self._probes.watched.named_parameters()))

    @property
    def armed(self) -> bool:
        return self._left > 0

    @property
    def trace(self) -> LiveTracer | None:
        """What was recorded of the backward that is being judged."""
        return self._tracer if self._tracer is not None and not self._tracer.ended else None

    # --- what the training does ---

    @property
    def has_trace(self) -> bool:
        return self.trace is not None

    def begin(self, call: Call) -> None:
        """The first forward of a backward to come: from here on every operation is recorded."""
        try:
            self._begin(call)
        except Exception as e:  # a model whose state cannot be read
            self._end(f"{type(e).__name__}: {e}"[:300])

    def _begin(self, call: Call) -> None:
        self.leave()
        if not self._left or self._probes.live.armed is not self:
            return
        bad = self.bad_state()
        if bad:
            self._end(f"parameters are not finite any more ({', '.join(sorted(bad)[:3])})")
            self.disarm()
            return
        self._left -= 1
        self.calls.clear()
        tracer = LiveTracer(batch_size_of([call]), self.modules, self.calls, self._end)
        if push_dispatch_mode(tracer):
            self._tracer = tracer
            self._of_thread.leave = _Leave(tracer)

    def leave(self) -> None:
        """Record no more. Users enter and leave modes of their own above it."""
        leave = getattr(self._of_thread, "leave", None)
        if leave is not None and pop_dispatch_mode(leave.tracer):
            leave.done = True
            self._of_thread.leave = None

    def forget(self) -> None:
        """Let go of what was recorded; after the last backward, of everything."""
        if self._tracer is not None:
            self._tracer.end()
            self._tracer = None
        if not self._left:
            self.disarm()

    def disarm(self) -> None:
        """Nothing of it is left on the models, nor on this thread's stack."""
        self._left = 0
        self._names.close()
        self.leave()
        if self._tracer is not None:
            self._tracer.end()
            self._tracer = None
        # While modes are put aside (in a post-mortem) it cannot be taken off: `forget` tries again.
        if getattr(self._of_thread, "leave", None) is None:
            self._probes.live.armed = None

    def _end(self, why: str) -> None:
        """Give up: called from inside of an operation too, so what is on the stack goes at the next occasion."""
        self._left = 0
        self._probes.note("live_trace_ended", f"the steps are no longer traced: {why}")

    def _nameable(self) -> Mapping[str, nn.Module]:
        """Modules by name; hooks below a compiled one would make it compile anew."""
        if any(c.opaque for c in self._probes.recorder.calls()):
            return {}
        models = self._probes.watched.models.items()
        return {
            clean(f"{prefix}.{fqn}" if prefix and fqn else prefix or fqn): module
            for prefix, model in models
            for fqn, module in outside_of_compiled(model)
        }


class _Leave:
    """Lives in a thread's local storage; goes with the thread, and takes the mode off its stack."""

    done = False

    def __init__(self, tracer: LiveTracer) -> None:
        self.tracer = tracer

    def __del__(self) -> None:
        if not self.done:
            pop_dispatch_mode(self.tracer)

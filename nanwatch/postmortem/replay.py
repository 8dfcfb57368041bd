"""The recorded step, run again, without a trace of it left behind.

The recorded calls run in their order, each in its surroundings (autocast, gradient mode, random numbers, buffers), then
the gradients are computed with `torch.autograd.grad`, which touches no `.grad` and fires no optimizer-in-backward.
Afterwards generators, buffers, training flags, gradients and anomaly mode are as they were.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from nanwatch.postmortem.collectives import alone
from nanwatch.postmortem.leave_alone import left_alone
from nanwatch.postmortem.module_names import named
from nanwatch.postmortem.ranks import unwrapped, without_wrappers
from nanwatch.postmortem.tensors import state_of
from nanwatch.probes.ambient import Surroundings
from nanwatch.probes.buffers import Slot
from nanwatch.probes.flight_recorder import (
    Ambient,
    Call,
    FlightRecorder,
    Leaf,
    MappingToken,
    Ref,
    Segment,
    TupleToken,
    follow,
    leaves_in,
    refs_of,
    version,
)
from nanwatch.records import Seen


class ReplayError(Exception):
    """The step cannot be run again; the text says why, for the report."""


@dataclass
class Plan:
    """What to run: the calls that the roots depend on, and where the roots are in their outputs."""

    calls: list[Call]
    roots: list[Ref]
    seeds: list[torch.Tensor | None]
    segments: list[Segment]
    changed_in_place: list[str] = field(default_factory=list)
    """Names of what the step started from and was overwritten since."""
    stand_ins: dict[int, torch.Tensor] = field(default_factory=dict)
    """id of a buffer -> the copy that the replay used in its place."""
    after: dict[Slot, torch.Tensor] = field(default_factory=dict)
    """What the last run left in the place of each buffer."""

    @property
    def batch_size(self) -> int | None:
        return batch_size_of(self.calls)

    @property
    def buffers_before(self) -> dict[Slot, torch.Tensor]:
        """The buffers as they were before the step, where a copy was taken."""
        copies = self.segments[-1].buffers if self.segments else ()
        return {slot: saved for c in copies for slot, saved in c.saved.items()}


@dataclass
class Outcome:
    """What a run gave."""

    roots: list[torch.Tensor]
    gradients: list[torch.Tensor | None]
    loss: float


def plan(
    recorder: FlightRecorder, roots: Sequence[torch.Tensor | Ref], seeds: Sequence[torch.Tensor | None] = ()
) -> Plan:
    """The smallest part of the recorded program that gives the roots.

    Raises: ReplayError where the program is not known: attached in the middle of a step, or loss code not recorded.
    """
    if recorder.overflowed:
        raise ReplayError("the program between model and backward is too long to be recorded")
    by_index = {c.index: c for c in recorder.calls()}
    refs = []
    for root in roots:
        found = (root.index, root.path) if isinstance(root, Ref) else recorder.find(root)
        if found is None or found[0] not in by_index:
            raise ReplayError("the loss was made by code that was not recorded (attached in the middle of the step, or"
                              " computed by a compiled or foreign function)")  # fmt: skip
        refs.append(Ref(*found))
    needed = {r.index for r in refs}
    calls = _needed_calls(recorder, needed)
    full_seeds = [*seeds, *([None] * (len(refs) - len(seeds)))]
    return _plan_of(recorder, calls, refs, full_seeds)


def plan_up_to(recorder: FlightRecorder, broken: Call | None) -> Plan:
    """Everything recorded since the last backward, and the call that raised, if one did.

    Raises: ReplayError where nothing was recorded.
    """
    first = recorder.current.first_entry
    calls = [c for c in recorder.current.calls if first is None or c.index >= first]
    needed = {c.index for c in calls} | (set(refs_of(broken)) if broken is not None else set())
    calls = _needed_calls(recorder, needed) + ([broken] if broken is not None else [])
    if not calls:
        raise ReplayError("nothing was recorded since the last backward")
    return _plan_of(recorder, calls, [], [])


def _needed_calls(recorder: FlightRecorder, needed: set[int]) -> list[Call]:
    """The calls in `needed`, what they depend on, and what changed that in place; in their order."""
    by_index = {c.index: c for c in recorder.calls()}
    current = recorder.current.number
    for call in sorted(by_index.values(), key=lambda c: -c.index):
        # Every entry call of this segment runs, needed or not: it moves buffers on, as it did the first time.
        moves_buffers = call.segment == current and call.is_entry and (call.training or call.opaque)
        if call.index in needed or moves_buffers or (call.mutates and _mutates_one_of(call, needed, by_index)):
            needed.add(call.index)
            needed.update(index for index in refs_of(call) if index in by_index)
    return [c for c in recorder.calls() if c.index in needed]


def _plan_of(recorder: FlightRecorder, calls: list[Call], roots: list[Ref], seeds: list[torch.Tensor | None]) -> Plan:
    made = Plan(calls, roots, seeds, [s for s in recorder.segments() if s.calls or s.buffers])
    made.changed_in_place = [_label(c) for c in calls for leaf in leaves_in(c) if version(leaf.tensor) != leaf.version]
    return made


def run(
    made: Plan,
    parameters: list[nn.Parameter],
    *,
    modules: Mapping[str, nn.Module] | None = None,
    tracer: Any = None,
    backward: bool = True,
    company: Callable[[], contextlib.AbstractContextManager[None]] = alone,
) -> Outcome:
    """Run the plan. With a tracer (see tracer.py) every operation is recorded; `modules` then gives the names."""
    names = contextlib.nullcontext() if tracer is None else named(modules or {}, tracer)
    with _everything_restored(made, (modules or {}).values()), company(), names:
        return run_under_tracer(made, parameters, tracer, backward=backward)


def run_under_tracer(made: Plan, parameters: list[nn.Parameter], tracer: Any, *, backward: bool) -> Outcome:
    """The frames below this one belong to the program, those above to the post-mortem: tracer.BOUNDARY."""
    environment: dict[int, Any] = {}
    with tracer or contextlib.nullcontext():
        for call in made.calls:
            if tracer is not None:
                tracer.begin(call)
            environment[call.index] = _run_call(call, environment, made.stand_ins)
        roots = [follow(environment[r.index], r.path) for r in made.roots]
        gradients: list[torch.Tensor | None] = []
        if backward:
            if tracer is not None:
                tracer.base = ()
            gradients = _gradients(roots, made.seeds, parameters)
    with torch.no_grad():
        loss = sum(float(r.detach().double().sum()) for r in roots)
    return Outcome([r.detach() for r in roots], gradients, loss)


def batch_size_of(calls: Sequence[Call]) -> int | None:
    """The most common leading dimension of what the entry modules got; of equals, the one that came first.

    Tensors of one dimension (a single sample, say) count only where there is nothing else.
    """
    tensors = [t for c in calls if c.is_entry for t in leaves_of(c) if t.dim() > 0]
    sizes = [t.shape[0] for t in tensors if t.dim() > 1] or [t.shape[0] for t in tensors]
    return max(dict.fromkeys(sizes), key=sizes.count) if sizes else None


def leaves_of(call: Call) -> list[torch.Tensor]:
    """The tensors that a call got from outside of the recorded program."""
    return [leaf.tensor for leaf in leaves_in(call)]


def changed(outcome: Outcome, seen: Seen, names: tuple[str, ...]) -> str | None:
    """Why the run does not count as the same as the step that was seen; None when it does."""
    if seen.where != "grad":
        finite = all(state_of(r) == "finite" for r in outcome.roots)
        return "the loss is finite in the replay" if finite else None
    bad = {n for n, g in zip(names, outcome.gradients, strict=True) if g is not None and state_of(g) != "finite"}
    same = bad & set(seen.names) if seen.names else bad
    return None if same else "the gradients that were bad are finite in the replay"


def same_bits(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


# --- one call ---


def _run_call(call: Call, environment: dict[int, Any], stand_ins: dict[int, torch.Tensor]) -> Any:
    args = resolve(call.args, environment)
    if call.mutates and isinstance(call.args[0], Leaf):
        # The next run starts from the same tensor: this one writes into a copy.
        copy = stand_ins[id(call.args[0].tensor)] = args[0].detach().clone()
        args = (copy, *args[1:])
    kwargs = resolve(call.kwargs, environment)
    with _ambient(call.ambient):
        if call.rng is not None:
            call.rng.restore()
        if call.module is not None:
            module = unwrapped(call.module)
            was = module.training
            module.training = call.training
            try:
                return module(*args, **kwargs)
            finally:
                module.training = was
        assert call.function is not None
        result = call.function(*args, **kwargs)
        return args[0] if call.mutates else result


def resolve(value: Any, environment: Mapping[int, Any]) -> Any:
    """The recorded value with Refs and Leaves turned back into tensors."""
    if isinstance(value, Leaf):
        return _usable(value.tensor)
    if isinstance(value, Ref):
        if value.index in environment:
            return follow(environment[value.index], value.path)
        if value.held is None:
            raise ReplayError("a tensor from an earlier step is no longer known")
        return _usable(value.held)
    if isinstance(value, MappingToken):
        return value.rebuild({k: resolve(v, environment) for k, v in value.items.items()})
    if isinstance(value, TupleToken):
        return value.rebuild([resolve(v, environment) for v in value.items])
    if isinstance(value, tuple):
        return tuple(resolve(v, environment) for v in value)
    if isinstance(value, list):
        return [resolve(v, environment) for v in value]
    if type(value) is dict:
        return {k: resolve(v, environment) for k, v in value.items()}
    return value


def _usable(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the training program for use in a second graph: its own graph is spent."""
    if tensor.grad_fn is None:
        return tensor
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _gradients(
    roots: list[torch.Tensor], seeds: list[torch.Tensor | None], parameters: list[nn.Parameter]
) -> list[torch.Tensor | None]:
    try:
        return list(torch.autograd.grad(roots, parameters, grad_outputs=seeds, allow_unused=True, retain_graph=True))
    except RuntimeError as e:
        if "does not require grad" in str(e):
            raise ReplayError(
                "the loss has no gradient in the replay: code between model and backward was not recorded, an "
                "autograd.Function of the program's own for example"
            ) from e
        if "checkpoint" not in str(e).lower():
            raise
    # Reentrant checkpointing refuses autograd.grad: use backward, with every .grad and hook put aside.
    kept = [(p, p.grad, p._post_accumulate_grad_hooks) for p in parameters]
    try:
        for p in parameters:
            p.grad = None
            p._post_accumulate_grad_hooks = None  # type: ignore[assignment]
        torch.autograd.backward(roots, seeds)
        return [p.grad for p in parameters]
    finally:
        for p, gradient, hooks in kept:
            p.grad, p._post_accumulate_grad_hooks = gradient, hooks


# --- leaving no trace ---


def modules_of(made: Plan, watched: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that a run may change; afterwards they are as they were."""
    modules = {id(m): m for c in made.calls if c.module is not None for m in unwrapped(c.module).modules()}
    modules |= {id(m): m for m in watched if any(c.opaque for c in made.calls)}
    return list(modules.values())


@contextlib.contextmanager
def _everything_restored(made: Plan, watched: Iterable[nn.Module]) -> Iterator[None]:
    rng = Surroundings().rng(everything=True)
    anomaly = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    torch.set_anomaly_enabled(False)
    modules = modules_of(made, watched)
    try:
        with left_alone(modules):
            made.stand_ins.clear()
            _stand_in_buffers(made, modules)
            without_wrappers(modules)
            yield
            made.after = {(id(m), name): b for m in modules for name, b in m._buffers.items() if b is not None}
    finally:
        torch.set_anomaly_enabled(*anomaly)
        rng.restore()


def _stand_in_buffers(made: Plan, modules: Iterable[nn.Module]) -> None:
    """Put copies in the place of the buffers, as they were before the step.

    Copies, because a graph that the program still holds may have saved a buffer: its version must not move.
    """
    before = made.buffers_before
    for module in modules:
        for name, buffer in module._buffers.items():
            if buffer is not None:
                copy = made.stand_ins.get(id(buffer))
                if copy is None:
                    copy = before.get((id(module), name), buffer).detach().clone()
                    made.stand_ins[id(buffer)] = copy
                module._buffers[name] = copy


@contextlib.contextmanager
def _ambient(ambient: Ambient) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        on = dict(ambient.autocast)
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, dtype=on.get(device), enabled=device in on, cache_enabled=False))
        stack.enter_context(torch.set_grad_enabled(ambient.grad_enabled))
        yield


# --- reading a recorded call ---


def _mutates_one_of(call: Call, needed: set[int], by_index: Mapping[int, Call]) -> bool:
    """Whether an in-place call wrote into what a needed call made, directly or through a view of it."""
    target: Any = call.args[0] if call.args else None
    while isinstance(target, Ref):
        if target.index in needed:
            return True
        maker = by_index.get(target.index)
        if maker is None or not (maker.is_view or maker.mutates):
            return False
        target = maker.args[0] if maker.args else None
    return False


def _label(call: Call) -> str:
    return (
        f"input of {call.name or type(call.module).__name__}"
        if call.module is not None
        else (f"input of {getattr(call.function, '__name__', 'a function')}")
    )

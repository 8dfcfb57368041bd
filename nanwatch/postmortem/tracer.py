"""Every operation of a replay, forward and backward, with what went in, what came out and who made it.

One TorchDispatchMode. A tensor's maker is found by its storage, so that views and in-place writes keep their history. A
backward operation is tied to the forward operation whose gradient it computes by autograd's sequence numbers, without
anomaly mode: the node that a forward operation created has the number that the counter had just then.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanwatch.postmortem.closeup import NOTHING, Closeup, look
from nanwatch.postmortem.collectives import is_for_dtensor, names_collective
from nanwatch.postmortem.tensors import State, absmax, bad_rows, element_at, first_bad, state_of, summarize
from nanwatch.probes.flight_recorder import Call, Stack
from nanwatch.probes.outside import is_user_code
from nanwatch.probes.torch_names import next_sequence_number
from nanwatch.records import TensorSummary

_UNWRITTEN = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided",
              "aten::empty_permuted", "aten::resize_"}  # fmt: skip
_OVERWRITES = {"aten::copy_", "aten::fill_", "aten::zero_", "aten::uniform_", "aten::normal_", "aten::bernoulli_",
               "aten::random_", "aten::exponential_", "aten::geometric_", "aten::cauchy_", "aten::log_normal_",
               "aten::set_"}  # fmt: skip
_MAX_FRAMES = 16
_WORSE = ("finite", "inf", "nan")


@dataclass(frozen=True, slots=True)
class Source:
    """Where an input came from: an earlier event, or a tensor that was there before the replay."""

    event: int | None
    leaf: torch.Tensor | None
    state: State
    carried: bool = False
    """Not read by the operation: it wrote into a part of the storage, and the rest still holds this."""


@dataclass(slots=True)
class Event:
    """One operation."""

    index: int
    op: str
    module: str | None
    stack: Stack
    backward: bool
    forward_of: Event | None
    """In backward: the forward operation whose gradient this is."""
    own_code: bool
    """In backward: run by code of the user's own, an autograd.Function or a hook."""
    sources: tuple[Source, ...]
    value: State
    carried: State
    """The worst of what the storage that was written holds: part of it may come from earlier operations."""
    absmax: float
    view: bool = False
    """It made nothing: the result lies in the storage of an input."""
    unwritten: bool = False
    nonfinite_scalar: bool = False
    inputs: tuple[TensorSummary, ...] = ()
    output: TensorSummary | None = None
    rows: tuple[int, ...] = ()
    empty_input: bool = False
    pointwise: bool = False
    node: int | None = None
    """In backward: the number of the autograd node that ran it."""
    own_function: bool = False
    """Own code that is the backward of an autograd.Function (else it is a hook)."""
    closeup: Closeup = NOTHING

    @property
    def located(self) -> Event:
        """The forward operation that people know: this one, or the one whose gradient it computes."""
        at = self
        while at.forward_of is not None and not at.own_code:
            at = at.forward_of
        return at


@dataclass(slots=True)
class Operation:
    """One operation that is about to run."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: list[tuple[str, torch.Tensor]]
    sources: tuple[Source, ...]
    before: list[tuple[str, torch.Tensor]]
    """The inputs, with a copy of what it writes into."""
    written: torch.Tensor | None


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records events while it is on. `boundary` is the code whose caller's frames are no longer the replay's."""

    def __init__(self, batch_size: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.base: Stack = ()
        """Stack of the recorded call that is being replayed, in the training program."""
        self.steps: list[tuple[int, int]] = []
        """Where each recorded call begins: number of its first event, and the optimizer step it belonged to."""
        self.modules: list[str] = []
        self.calls: Counter[str] = Counter()
        """How often each module's forward ran."""
        self._batch_size = batch_size
        self._makers: dict[int, int] = {}
        self._alive: dict[int, StorageWeakRef] = {}
        self._by_sequence: dict[int, Event] = {}
        self._last_sequence = next_sequence_number() - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_for_dtensor(types):
            return NotImplemented
        seen = self.before(func, args, kwargs)
        try:
            result = func(*args, **kwargs)
        except Exception:
            # An operation that refuses its input (a decomposition of NaN) has read it: the walk may start here.
            self._record(seen, [])
            raise
        self.after(seen, result)
        return result

    def before(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Operation:
        """Take down what an operation is about to read."""
        op = func._schema.name
        inputs = list(_named_tensors(func, args, kwargs))
        written = _written(func, args, kwargs)
        sources = tuple(
            Source(self._maker(t), None if self._maker(t) is not None else t, state_of(t))
            for _, t in inputs
            if not (op in _OVERWRITES and t is written)
        )
        if written is not None:
            sources += self._carried_over(written)
        before = inputs
        if written is not None and not _cheap(op):
            before = [(n, t.detach().clone() if t is written else t) for n, t in inputs]
        return Operation(func, args, kwargs, inputs, sources, before, written)

    def after(self, seen: Operation, result: Any) -> None:
        """Take down what it has made of that."""
        outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        if seen.written is not None and not any(o is seen.written for o in outputs):
            outputs.append(seen.written)
        outputs += _running_statistics(seen.func._schema.name, seen.args)
        self._record(seen, outputs)

    def _carried_over(self, written: torch.Tensor) -> tuple[Source, ...]:
        """What stays in the storage when only a part of it is written."""
        maker = self._maker(written)
        if maker is None or written.layout != torch.strided:
            return ()
        whole = written.untyped_storage().nbytes() // max(1, written.element_size())
        state = self.events[maker].carried
        return (Source(maker, None, state, carried=True),) if written.numel() < whole and state != "finite" else ()

    def begin(self, call: Call) -> None:
        """The replay comes to a recorded call."""
        self.base = call.stack
        self.steps.append((len(self.events), call.step))

    def step_of(self, event: Event) -> int | None:
        """The optimizer step at which the event happened in the training."""
        return next((step for first, step in reversed(self.steps) if first <= event.index), None)

    def makers_of(self, tensors: Iterable[torch.Tensor]) -> list[Event]:
        """The operations that made the tensors, those that are not finite, each once and in order of execution."""
        makers = {m.index: m for t in tensors if (m := self.maker_of(t)) is not None and m.value != "finite"}
        return [makers[i] for i in sorted(makers)]

    def maker_of(self, tensor: torch.Tensor) -> Event | None:
        """The last operation that wrote into the tensor's storage."""
        index = self._maker(tensor)
        return None if index is None else self.events[index]

    def _record(self, seen: Operation, outputs: list[torch.Tensor]) -> None:
        func, args, kwargs, inputs, sources = seen.func, seen.args, seen.kwargs, seen.inputs, seen.sources
        before, written = seen.before, seen.written if outputs else None
        op = func._schema.name
        states = [state_of(o) for o in outputs]
        value: State = "nan" if "nan" in states else "inf" if "inf" in states else "finite"
        backward, forward_of, own, node = self._place()
        event = Event(
            index=len(self.events),
            op=op,
            module=self._module(backward, forward_of),
            stack=own or (forward_of.located.stack if forward_of is not None else self._stack()),
            backward=backward,
            forward_of=forward_of,
            own_code=bool(own),
            sources=sources,
            value=value,
            carried=max((value, *(s.state for s in sources if s.carried)), key=_WORSE.index),
            absmax=absmax(*outputs),
            unwritten=op in _UNWRITTEN,
            pointwise=torch.Tag.pointwise in func.tags,
            node=None if node is None else node._sequence_nr(),
            own_function=bool(own)
            and isinstance(node, torch.autograd.function.BackwardCFunction)
            and not _is_torchs(node),
        )
        if value != "finite":
            worst = outputs[states.index(value)]
            at = first_bad(worst)
            by_element = at if event.pointwise else None
            event.inputs = tuple(_located(summarize(n, t), t, by_element, worst.shape) for n, t in before)
            event.output = _located(summarize("output", worst), worst, at, worst.shape)
            event.rows = bad_rows(worst, self._batch_size)
            event.nonfinite_scalar = _has_nonfinite_scalar(args, kwargs)
            event.empty_input = any(t.numel() == 0 for _, t in inputs)
            if _may_be_origin(event) or self._completes_origin(event):
                event.closeup = look(
                    func, args, kwargs, before, outputs, worst, node=node, gradients=self._gradients(before, event),
                    forward_is_pointwise=forward_of is not None and forward_of.pointwise,
                )  # fmt: skip
        self.events.append(event)
        read = {storage_key(t) for _, t in inputs}
        # What a collective returns it has written, although its schema does not say so.
        also_written = {id(t) for t in _running_statistics(op, args)}
        made = [o for o in outputs if o is written or id(o) in also_written or storage_key(o) not in read
                or names_collective(op)]  # fmt: skip
        event.view = not made
        for o in made:  # what lies in the storage of a view still comes from whoever wrote it
            self._remember(o, event.index)
        sequence = next_sequence_number() - 1
        if sequence > self._last_sequence:
            self._last_sequence = sequence
            self._by_sequence[sequence] = event

    def _place(self) -> tuple[bool, Event | None, Stack, Any]:
        """Whether this is a backward operation, of which forward operation, the user's own code, and the node."""
        if self.modules or torch._C._current_graph_task_id() == -1:
            return False, None, (), None
        node = torch._C._current_autograd_node()
        if node is None:
            return True, None, (), None
        return True, self._by_sequence.get(node._sequence_nr()), self._stack(own=True), node

    def _gradients(self, operands: list[tuple[str, torch.Tensor]], event: Event) -> list[torch.Tensor]:
        """Those operands of a backward operation that are the gradient which came in from another node."""
        if event.node is None:
            return []
        makers = [(t, self.maker_of(t)) for _, t in operands if t.is_floating_point() or t.is_complex()]
        return [t for t, m in makers if m is not None and self._came_in(m, event.node)]

    def _came_in(self, maker: Event, node: int) -> bool:
        """Made by another node of the backward graph, or by this one of nothing else (its negative)."""
        if not maker.backward or maker.node != node:
            return maker.backward
        sources = [s.event for s in maker.sources]
        return len(sources) == 1 and sources[0] is not None and self._came_in(self.events[sources[0]], node)

    def _completes_origin(self, event: Event) -> bool:
        """Whether a value that was made in this very node of the backward graph meets the incoming gradient here."""
        made = (self.events[s.event] for s in event.sources if s.event is not None and s.state != "finite")
        return event.node is not None and any(m.node == event.node and m.backward for m in made)

    def _module(self, backward: bool, forward_of: Event | None) -> str | None:
        if backward:
            return forward_of.module if forward_of is not None else None
        return self.modules[-1] if self.modules else None

    def _stack(self, *, own: bool = False) -> Stack:
        """User frames from here up to the replay, then those of the recorded call (unless only `own` ones count)."""
        out: list[tuple[CodeType, int]] = []
        frame = sys._getframe(2)
        while frame is not None and len(out) < _MAX_FRAMES:
            code = frame.f_code
            if (code.co_filename, code.co_name) in _BOUNDARIES:
                break
            if is_user_code(code.co_filename):
                out.append((code, frame.f_lineno))
            frame = frame.f_back  # type: ignore[assignment]
        return tuple(out) if own else (*out, *self.base)

    def _maker(self, tensor: torch.Tensor) -> int | None:
        key = storage_key(tensor)
        return None if key is None else self._makers.get(key)

    def _remember(self, tensor: torch.Tensor, index: int) -> None:
        key = storage_key(tensor)
        if key is None:
            return
        self._makers[key] = index
        if key not in self._alive:
            # Holding a weak reference keeps the address from being given to another storage.
            self._alive[key] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


_ROOM = __file__.rsplit("/", 1)[0]
_AUTOGRAD = f"{_ROOM.removesuffix('postmortem')}probes/backward.py"
_BOUNDARIES = {
    (f"{_ROOM}/replay.py", "run_under_tracer"), (f"{_ROOM}/twin.py", "step_under_tracer"),
    (_AUTOGRAD, "_around"), (_AUTOGRAD, "_autograd_grad"),
}  # fmt: skip
"""What is called from there is the program; what calls them is the post-mortem, or asks autograd for gradients."""


def storage_key(tensor: torch.Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors have none: follow their values
        values = getattr(tensor, "_values", None)
        return None if values is None else int(tensor._values().untyped_storage()._cdata)


def _named_tensors(func: Any, args: Any, kwargs: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensor arguments with the names of the operation's schema; those in lists get a number."""
    schema = func._schema.arguments
    pairs = [(schema[i].name if i < len(schema) else f"arg{i}", a) for i, a in enumerate(args)] + list(kwargs.items())
    for name, value in pairs:
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, list | tuple):
            for i, v in enumerate(value):
                if isinstance(v, torch.Tensor):
                    yield f"{name}[{i}]", v


def _located(
    summary: TensorSummary, tensor: torch.Tensor, at: tuple[int, ...] | None, shape: torch.Size
) -> TensorSummary:
    """The summary with the element that went into the first bad one of the result."""
    found = None if at is None else element_at(tensor, at, shape)
    if found is None:
        return summary
    return replace(summary, position=found[0], value=None if math.isnan(found[1]) else found[1])


def _written(func: Any, args: Any, kwargs: Any) -> torch.Tensor | None:
    """The tensor that the operation writes into, if it does."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = kwargs.get(argument.name) if i >= len(args) else args[i]
            if isinstance(value, list | tuple):
                value = value[0] if value else None
            return value if isinstance(value, torch.Tensor) else None
    return None


def _is_torchs(node: Any) -> bool:
    """Whether an autograd.Function is one of torch's own, such as that of a module's backward hooks."""
    return str(getattr(getattr(type(node), "_forward_cls", None), "__module__", "")).startswith("torch.")


def _running_statistics(op: str, args: Any) -> list[torch.Tensor]:
    """What batch normalisation moves on although its schema does not say that it writes it."""
    if "batch_norm" not in op or "backward" in op:
        return []
    return [a for a in args[3:5] if isinstance(a, torch.Tensor)]


def _cheap(op: str) -> bool:
    return op in _OVERWRITES or op in _UNWRITTEN


def _has_nonfinite_scalar(args: Any, kwargs: Any) -> bool:
    leaves = tree_leaves((args, kwargs))
    return any(isinstance(a, float) and not math.isfinite(a) for a in leaves)


def _may_be_origin(event: Event) -> bool:
    """Nothing bad went in, or infinities did and NaN came out."""
    states = {s.state for s in event.sources}
    return states <= {"finite"} or (event.value == "nan" and "nan" not in states)

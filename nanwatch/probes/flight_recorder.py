"""What a replay needs of the last steps: the calls of the entry modules and the program between them, in order.

A tensor that a recorded call made is written down as a Ref (which call, where in its output), never held, so that a
step's activations are freed when the user's program frees them. What comes from elsewhere (the batch, targets,
parameters) is a Leaf, held by reference. The recorder is emptied as the training goes on.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, Protocol

import torch

from nanwatch.probes.buffers import BufferCopies

KEPT_SEGMENTS = 4
LEAST_SCALE = 16.0
_PRODUCTS = {"mul", "multiply", "__mul__", "__rmul__"}
MAX_CALLS = 2000
MAX_CLONED_BYTES = 16 * 1024 * 1024
"""Of what one segment may copy because the program is about to overwrite it."""
LOOK_BACK = 64
"""Calls among which the readers of a tensor are looked for that is about to be overwritten."""
MAX_CLONED_BEFORE_ENTRY = 1024 * 1024
"""The same, of what the program changes while it prepares a batch."""

Stack = tuple[tuple[CodeType, int], ...]
"""Code and line of the user's frames at a call, innermost first."""
Path = tuple[Any, ...]
"""Keys that lead from an output to one tensor in it; an `Attribute` key is an attribute, others are items."""


@dataclass(frozen=True, slots=True)
class Attribute:
    name: str


@dataclass(slots=True)
class Leaf:
    """A tensor that the replay starts from. `version` tells whether it was changed in place since."""

    tensor: torch.Tensor
    version: int
    maker: tuple[int, Path] | None = None
    """The recorded call that made it before this step's model was called, where one did: to look further back."""


@dataclass(slots=True)
class Ref:
    """The tensor at `path` in the output of call `index`; `held` is the tensor itself where the call may be gone."""

    index: int
    path: Path
    held: torch.Tensor | None = None


@dataclass(slots=True)
class Ambient:
    """What surrounds a call and changes its result."""

    grad_enabled: bool
    autocast: tuple[tuple[str, torch.dtype], ...]
    """Device and type of each autocast that is on."""


@dataclass(slots=True)
class Call:
    """One recorded call. `module` is set for an entry module's forward, else `function`."""

    index: int
    segment: int
    function: Callable[..., Any] | None
    args: Any
    kwargs: Any
    ambient: Ambient
    stack: Stack
    module: torch.nn.Module | None = None
    name: str = ""
    training: bool = False
    rng: Any = None
    mutates: bool = False
    is_view: bool = False
    """The output lies in the memory of the first argument."""
    step: int = 0
    """Optimizer steps that were complete when it ran."""
    opaque: bool = False
    """A region that is recorded as one call (opaque.py): the model may be in it as well as the loss."""

    @property
    def is_entry(self) -> bool:
        """Whether it is, or may hold, a forward of the model."""
        return self.module is not None or self.opaque


@dataclass
class Segment:
    """From one outermost backward to the next: what one loss was made of."""

    number: int
    step: int
    calls: list[Call] = field(default_factory=list)
    buffers: list[BufferCopies] = field(default_factory=list)
    first_entry: int | None = None
    """Index of the first forward with gradients: what was recorded before it prepared the batch."""
    entries: int = 0
    """Entry calls in it; when there are `look_again_at`, those that nothing needs are dropped."""
    look_again_at: int = 4
    cloned_bytes: int = 0


class Listener(Protocol):
    """Who wants to know of forwards and of what recorded calls made."""

    def next_forward(self) -> None: ...

    def made(self, call: Call, output: Any) -> None: ...

    def broke(self, call: Call) -> None: ...

    def looked_at(self) -> None: ...


class FlightRecorder:
    """Ring of the last segments. One thread, the training's, writes and reads it."""

    def __init__(self) -> None:
        self.step = 0
        self.listener: Listener
        self.kept: set[int] = set()
        """Calls that are not forgotten although nothing alive depends on them."""
        self.overflowed = False
        self._segments: list[Segment] = [Segment(0, 0)]
        self._made: dict[int, tuple[weakref.ref[torch.Tensor], int, Path]] = {}
        self._next = 0
        self._buffers: dict[int, BufferCopies] = {}

    @property
    def current(self) -> Segment:
        return self._segments[-1]

    def calls(self) -> list[Call]:
        """All calls that are still known, oldest first."""
        return [c for s in self._segments for c in s.calls]

    def segments(self) -> list[Segment]:
        return list(self._segments)

    def begin_entry(self, *, trains: bool) -> None:
        """An entry module is called: forget what an optimizer step has made stale."""
        if trains:
            self.listener.next_forward()
            if self.current.first_entry is None:
                self.current.first_entry = self._next + 1
                self.current.step = self.step
        if len(self._segments) > 1 and self._segments[0].step < self.step:
            self._segments = [s for s in self._segments[:-1] if s.step >= self.step - 1] + [self._segments[-1]]
            self._prune()
        if self.current.entries >= self.current.look_again_at:
            self._forget_unused()

    def new_batch(self) -> None:
        """A loader has handed out a batch: what nothing alive depends on belongs to the batches before."""
        if self.current.calls:
            self._forget_unused()

    def save_buffers(self, module: torch.nn.Module) -> None:
        """Copy a module's buffers as they are before its first forward of this segment."""
        copies = self._buffers.get(id(module))
        if copies is None:
            copies = self._buffers[id(module)] = BufferCopies(module)
        # A second forward of the same segment must not overwrite what the first one started from.
        if not any(kept is copies for kept in self.current.buffers):
            copies.save()
            self.current.buffers.append(copies)

    def keep_copy(self, leaf: Leaf) -> None:
        """Copy what is about to be overwritten. What is too large keeps its version, by which it is known."""
        size = leaf.tensor.numel() * leaf.tensor.element_size()
        limit = MAX_CLONED_BYTES if self.current.first_entry is not None else MAX_CLONED_BEFORE_ENTRY
        if self.current.cloned_bytes + size > limit or leaf.tensor.grad_fn is not None:
            return
        self.current.cloned_bytes += size
        original = leaf.tensor
        copy = original.detach().clone().requires_grad_(original.requires_grad)
        # What has read it before in this segment has read the same values.
        readers = (t for c in self.current.calls[-LOOK_BACK:] for t in leaves_in(c))
        same = [t for t in readers if t.tensor is original and t.version == leaf.version]
        for token in (leaf, *same):
            token.tensor, token.version = copy, version(copy)

    def end_segment(self) -> None:
        """An outermost backward is over."""
        self.overflowed = False
        self._segments.append(Segment(self.current.number + 1, self.step))
        if len(self._segments) > KEPT_SEGMENTS:
            self._segments = self._segments[-KEPT_SEGMENTS:]
            self._prune()

    def discard(self) -> None:
        """Forget everything; used where what was recorded can no longer be replayed."""
        self._segments = [Segment(self.current.number + 1, self.step)]
        self._made.clear()
        self.overflowed = False

    def add(self, call: Call) -> bool:
        """Take in a call; False when the program has become too long to be kept."""
        calls = self.current.calls
        if len(calls) >= MAX_CALLS:
            self.overflowed = True
            return False
        call.step = self.step
        calls.append(call)
        self.current.entries += call.is_entry
        return True

    def new_index(self) -> int:
        self._next += 1
        return self._next

    def find(self, tensor: torch.Tensor) -> tuple[int, Path] | None:
        """The call that made this very tensor object, if one did."""
        entry = self._made.get(id(tensor))
        return (entry[1], entry[2]) if entry is not None and entry[0]() is tensor else None

    def scaled_by(self, root: torch.Tensor) -> tuple[Ref, float] | None:
        """What a loss was before it was multiplied by a large power of two, and that number; None for any other."""
        found = self.find(root)
        call = next((c for c in self.current.calls if found is not None and c.index == found[0]), None)
        if call is None or getattr(call.function, "__name__", "") not in _PRODUCTS or len(call.args) != 2:
            return None
        refs = [a for a in call.args if isinstance(a, Ref)]
        others = [a.tensor if isinstance(a, Leaf) else a for a in call.args if not isinstance(a, Ref)]
        if len(refs) != 1 or not isinstance(others[0], int | float | torch.Tensor):
            return None
        factor = float(others[0]) if not isinstance(others[0], torch.Tensor) or others[0].numel() == 1 else 0.0
        return (refs[0], factor) if factor >= LEAST_SCALE and math.log2(factor).is_integer() else None

    def made(self, call: Call, output: Any) -> int:
        """Remember the tensors in a call's output; how many there were."""
        n = 0
        for path, tensor in tensors_in(output):
            self._made[id(tensor)] = (weakref.ref(tensor), call.index, path)
            n += 1
        if n:
            self.listener.made(call, output)
        return n

    def ancestors(self, roots: tuple[torch.Tensor, ...]) -> set[int]:
        """The recorded calls that the tensors depend on."""
        by_index = {c.index: c for c in self.calls()}
        todo = [found[0] for r in roots if (found := self.find(r)) is not None]
        seen = set(todo)
        while todo:
            call = by_index.get(todo.pop())
            new = set() if call is None else set(refs_of(call)) - seen
            seen |= new
            todo += new
        return seen

    def describe(self, value: Any) -> Any:
        """The value with each tensor in it replaced by a Ref or a Leaf. Containers are copied, the rest is kept."""
        if isinstance(value, torch.Tensor):
            return self._token(value)
        if isinstance(value, tuple):
            items = [self.describe(v) for v in value]
            return TupleToken(type(value), items) if type(value) is not tuple else tuple(items)
        if isinstance(value, list):
            return [self.describe(v) for v in value]
        if type(value) is dict:
            return {k: self.describe(v) for k, v in value.items()}
        if isinstance(value, Mapping) and any(isinstance(v, torch.Tensor) for v in value.values()):
            return MappingToken(value, {k: self.describe(v) for k, v in value.items()})
        return value

    def _token(self, tensor: torch.Tensor) -> Leaf | Ref:
        entry = self._made.get(id(tensor))
        if entry is None or entry[0]() is not tensor:
            return Leaf(tensor, version(tensor))
        segment = self.current
        here = bool(segment.calls) and entry[1] >= segment.calls[0].index
        has_graph = tensor.grad_fn is not None
        # Between two calls that prepare the batch, the way is followed; the model and what comes after start from the
        # batch as it is.
        if here and (has_graph or segment.first_entry is None or entry[1] >= segment.first_entry):
            return Ref(entry[1], entry[2])
        if has_graph:
            # Made before the last backward (a GAN's fake images): the call may be forgotten, so hold the tensor too.
            return Ref(entry[1], entry[2], tensor)
        return Leaf(tensor, version(tensor), entry[1:])

    def _forget_unused(self) -> None:
        """Drop calls of this segment that nothing alive depends on: an evaluation with gradients on never ends one."""
        alive = {index for ref, index, _ in self._made.values() if ref() is not None} | self.kept
        needed: set[int] = set()
        for call in reversed(self.current.calls):
            if call.index in alive or call.index in needed or (call.mutates and needed & set(refs_of(call))):
                needed.update((call.index, *refs_of(call)))
        segment = self.current
        segment.calls = [c for c in segment.calls if c.index in needed]
        segment.entries = sum(c.is_entry for c in segment.calls)
        # Looked at again only when it has doubled: a model that is called a thousand times a step stays linear.
        segment.look_again_at = max(4, 2 * segment.entries)
        self._prune()

    def _prune(self) -> None:
        oldest = next((c.index for s in self._segments for c in s.calls), self._next)
        self._made = {k: e for k, e in self._made.items() if e[1] >= oldest and e[0]() is not None}


@dataclass(slots=True)
class MappingToken:
    """A mapping that is no plain dict (a tokenizer's batch, say): rebuilt by its own class when it is replayed."""

    original: Mapping[Any, Any]
    items: dict[Any, Any]

    def rebuild(self, items: dict[Any, Any]) -> Any:
        cls: Any = type(self.original)
        try:
            return cls(items)
        except Exception:  # a class with another constructor: a dict serves most models as well
            return items


@dataclass(slots=True)
class TupleToken:
    """A tuple of a class of its own (a named tuple, a PackedSequence): made only when it is replayed."""

    cls: type
    items: list[Any]

    def rebuild(self, items: list[Any]) -> Any:
        try:
            return self.cls(*items) if hasattr(self.cls, "_fields") else self.cls(items)
        except Exception:  # a constructor that wants something else: the plain tuple underneath is the same data
            return tuple.__new__(self.cls, items)


def tokens_in(value: Any) -> Iterator[Leaf | Ref]:
    """Every Leaf and Ref in a described value."""
    if isinstance(value, Leaf | Ref):
        yield value
    elif isinstance(value, MappingToken | TupleToken):
        yield from tokens_in(value.items)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from tokens_in(v)
    elif type(value) is dict:
        for v in value.values():
            yield from tokens_in(v)


def leaves_in(call: Call) -> list[Leaf]:
    """The tensors that a call starts from."""
    return [t for t in tokens_in((call.args, call.kwargs)) if isinstance(t, Leaf)]


def refs_of(call: Call) -> list[int]:
    """The calls whose outputs a call reads."""
    return [t.index for t in tokens_in((call.args, call.kwargs)) if isinstance(t, Ref)]


def version(tensor: torch.Tensor) -> int:
    """Counter of in-place changes; -1 for a tensor that has none (made under inference mode)."""
    return -1 if tensor.is_inference() else int(tensor._version)


def tensors_in(value: Any, path: Path = (), depth: int = 0) -> Iterator[tuple[Path, torch.Tensor]]:
    """Every tensor in an output, with the way to it: containers, mappings, and objects by their attributes."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif depth > 4 or value is None or isinstance(value, str | int | float | bool):
        return
    elif isinstance(value, Mapping):
        for k, v in value.items():
            yield from tensors_in(v, (*path, k), depth + 1)
    elif isinstance(value, list | tuple):
        for i, v in enumerate(value):
            yield from tensors_in(v, (*path, i), depth + 1)
    elif hasattr(value, "__dict__") and not isinstance(value, type | torch.nn.Module) and not callable(value):
        for k, v in vars(value).items():
            yield from tensors_in(v, (*path, Attribute(k)), depth + 1)


def follow(value: Any, path: Path) -> Any:
    """What lies at `path` in an output."""
    for key in path:
        value = getattr(value, key.name) if isinstance(key, Attribute) else value[key]
    return value

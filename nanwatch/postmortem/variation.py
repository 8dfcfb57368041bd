"""The recorded step with one thing changed, run in stand-ins: no tensor of the training is written."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from nanwatch.postmortem.bounds import Bounds
from nanwatch.postmortem.collectives import alone
from nanwatch.postmortem.compiler import eagerly
from nanwatch.postmortem.in_type import InType
from nanwatch.postmortem.replay import Outcome, Plan, modules_of, run
from nanwatch.probes.flight_recorder import Ambient, Call, Leaf, MappingToken, Ref, TupleToken, refs_of, tokens_in

_MADE_TO_SIZE = {"arange", "zeros", "ones", "full", "empty", "eye", "rand", "randn", "randint", "randperm", "view",
                 "reshape", "expand", "repeat", "tile", "broadcast_to", "unflatten", "new_zeros", "new_ones",
                 "new_full", "new_empty", "fill_diagonal_", "narrow", "split", "chunk"}  # fmt: skip
"""Functions of the loss code whose numbers may be the size of the batch."""


@dataclass(frozen=True)
class Variation:
    """What is changed; with nothing set it is the same step again."""

    dtype: torch.dtype | None = None
    rows: tuple[int, ...] | None = None
    """The only rows of the batch to keep."""
    sizes_follow: bool = False
    """What else has the size of the batch follows: numbers in the recorded program, tables of pairs of rows."""


@dataclass
class Varied:
    """What a run gave. `after` is what it left in the place of each buffer."""

    outcome: Outcome
    after: Mapping[Any, torch.Tensor]


def run_varied(
    made: Plan,
    parameters: list[nn.Parameter],
    watched: Mapping[str, nn.Module],
    state: frozenset[int],
    variation: Variation,
    bounds: Bounds,
    *,
    backward: bool,
) -> Varied:
    """Run the plan with the variation. `state` has the ids of all parameters and buffers.

    Raises: what bounds refuse, NeedsOthersError, and whatever the program raises on what it is not used to.
    """
    stand_ins = _StandIns(made, state, variation)
    modules = modules_of(made, watched.values())
    width = 0 if variation.dtype is None else variation.dtype.itemsize
    bounds.begin(extra_bytes=3 * width * sum(p.numel() for p in parameters))  # themselves, gradients, what they make
    own = [stand_ins.of_parameter(p) for p in parameters]
    calls = [stand_ins.call(c) for c in made.calls]
    seeds = [None if s is None else stand_ins.of_data(s) for s in made.seeds]
    plan = Plan(calls, made.roots, seeds, made.segments)

    @contextlib.contextmanager
    def inside() -> Iterator[None]:
        stand_ins.place(modules)
        rewriting = InType(variation.dtype) if variation.dtype is not None else contextlib.nullcontext()
        with alone(), eagerly(), warnings.catch_warnings(), bounds, rewriting:
            warnings.simplefilter("ignore")  # of rows that are alone now, of other types
            yield

    try:
        outcome = run(plan, own, modules=watched, backward=backward, company=inside)
    finally:
        if bounds.refused is not None:
            raise bounds.refused
    return Varied(outcome, plan.after)


class _StandIns:
    """One stand-in for each tensor that the step starts from, however often it is met: tied weights stay tied."""

    def __init__(self, made: Plan, state: frozenset[int], variation: Variation) -> None:
        self._made = made
        self._state = state
        self._variation = variation
        self._by_id: dict[int, torch.Tensor] = {}
        self._kept: list[torch.Tensor] = []
        self._cut_calls: set[int] = set()
        """Calls whose results have the kept rows only, as far as is known: the rest is seen while they run."""
        self._in_type = None if variation.dtype is None else InType(variation.dtype)

    def of_parameter(self, parameter: torch.Tensor) -> nn.Parameter:
        """The parameter itself, unless the type changes: then a copy, which gradients are computed for instead."""
        if self._in_type is None or not (parameter.is_floating_point() or parameter.is_complex()):
            return parameter  # type: ignore[return-value]
        made = self._by_id.get(id(parameter))
        if made is None:
            copy = self._copied(parameter.detach())
            made = nn.Parameter(copy, requires_grad=parameter.requires_grad)
            hooks: Mapping[int, Any] = parameter._backward_hooks or {}
            for hook in hooks.values():
                made.register_hook(hook)  # type: ignore[no-untyped-call]  # a hook that mends gradients is a part of the program
            self._remember(parameter, made)
        return made  # type: ignore[return-value]

    def of_data(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy, because the program may write into it; with the rows that are kept."""
        if isinstance(tensor, nn.Parameter):
            return self.of_parameter(tensor)
        made = self._by_id.get(id(tensor))
        if made is None:
            made = self._copied(self._cut(tensor.detach())).requires_grad_(tensor.requires_grad)
            self._remember(tensor, made)
        return made

    def _is_batch(self, tensor: torch.Tensor) -> bool:
        sized = tensor.dim() > 0 and tensor.shape[0] == self._made.batch_size
        return self._variation.rows is not None and sized and id(tensor) not in self._state

    def _cut(self, tensor: torch.Tensor) -> torch.Tensor:
        rows, size = self._variation.rows, self._made.batch_size
        if rows is None or not self._is_batch(tensor):
            return tensor
        index = torch.tensor(rows, device=tensor.device)
        cut = tensor.index_select(0, index)
        pairs = self._variation.sizes_follow and tensor.dim() > 1 and tensor.shape[1] == size
        return cut.index_select(1, index) if pairs else cut

    def _copied(self, tensor: torch.Tensor) -> torch.Tensor:
        wider = tensor if self._in_type is None else self._in_type.cast(tensor)
        if wider is not tensor or tensor.layout != torch.strided:
            return wider
        copy = wider.clone()
        # Where memory overlaps a copy is laid out anew, which may change the order of a sum and its last bits.
        return copy if copy.stride() == wider.stride() else wider

    def _remember(self, tensor: torch.Tensor, made: torch.Tensor) -> None:
        self._by_id[id(tensor)] = made
        self._by_id[id(made)] = made
        self._kept.append(tensor)  # while it is kept nothing else gets its id

    # --- the recorded program ---

    def call(self, call: Call) -> Call:
        """The call with its own copies of what it starts from, and without autocast where the type changes."""
        ambient = call.ambient if self._in_type is None else Ambient(call.ambient.grad_enabled, ())
        name = getattr(call.function, "__name__", "")
        number = self._number if self._variation.sizes_follow and name in _MADE_TO_SIZE else _same
        described = (call.args, call.kwargs)
        args, kwargs = self._described(described, number, lists=call.is_entry)
        function = call.function
        if self._variation.rows is not None:
            starts_from = [t.tensor if isinstance(t, Leaf) else t.held for t in tokens_in(described)]
            if call.is_entry or any(t is not None and self._is_batch(t) for t in starts_from):
                self._cut_calls.add(call.index)
            elif function is not None and starts_from:
                function = self._cutting(call, function)
        return replace(call, function=function, args=args, kwargs=kwargs, ambient=ambient)

    def _cutting(self, call: Call, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that takes the batch out of something larger (`targets[24:32]`) gives the kept rows of it."""
        reads = set(refs_of(call))

        def run_and_cut(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            batch = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor) and self._is_batch(t)]
            if reads & self._cut_calls or (batch and not call.mutates):
                self._cut_calls.add(call.index)
            if reads & self._cut_calls or call.mutates or not batch:
                return result
            return tree_map(lambda v: self._cut(v) if isinstance(v, torch.Tensor) else v, result)

        return run_and_cut

    def _number(self, number: int) -> int:
        rows = self._variation.rows
        return len(rows) if rows is not None and number == self._made.batch_size else number

    def _described(self, value: Any, number: Callable[[int], int], *, lists: bool) -> Any:
        def inner(v: Any) -> Any:
            return self._described(v, number, lists=lists)

        if isinstance(value, Leaf):
            return Leaf(self.of_data(value.tensor), value.version)
        if isinstance(value, Ref):
            return value if value.held is None else Ref(value.index, value.path, self.of_data(value.held))
        if isinstance(value, MappingToken):
            return MappingToken(value.original, inner(value.items))
        if isinstance(value, TupleToken):
            return TupleToken(value.cls, inner(value.items))
        if isinstance(value, list):
            kept = self._variation.rows
            if lists and kept is not None and len(value) == self._made.batch_size:
                value = [value[i] for i in kept]  # one entry a row: lengths, names
            return [inner(v) for v in value]
        if type(value) is tuple:
            return tuple(inner(v) for v in value)
        if type(value) is dict:
            return {k: inner(v) for k, v in value.items()}
        return number(value) if type(value) is int else value

    # --- the modules; what they were is put back by the replay's own clean-up ---

    def place(self, modules: Iterable[nn.Module]) -> None:
        """Put the stand-ins into the modules."""
        for module in modules:
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[name] = self.of_parameter(parameter)
            if self._in_type is not None:
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        module._buffers[name] = self._of_state(buffer)
            for name, value in list(module.__dict__.items()):
                if name not in {"_parameters", "_buffers", "_modules", "_flat_weights"}:
                    self._place_attribute(module, name, value)
            if isinstance(module, nn.RNNBase):
                module.__dict__["_flat_weights"] = [
                    getattr(module, n) if hasattr(module, n) else None for n in module._flat_weights_names
                ]

    def _place_attribute(self, module: nn.Module, name: str, value: Any) -> None:
        """Tensors that a module keeps as they are, or in a list or dict: it may write into them."""
        if isinstance(value, torch.Tensor):
            module.__dict__[name] = self._of_state(value)
        elif type(value) in (list, deque) and any(isinstance(v, torch.Tensor) for v in value):
            items = [self._of_state(v) if isinstance(v, torch.Tensor) else v for v in value]
            value.clear()
            value.extend(items)
        elif type(value) is dict and any(isinstance(v, torch.Tensor) for v in value.values()):
            value.update({k: self._of_state(v) for k, v in value.items() if isinstance(v, torch.Tensor)})

    def _of_state(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, nn.Parameter):
            return self.of_parameter(tensor)
        made = self._by_id.get(id(tensor))
        if made is None:
            made = self._copied(tensor.detach()).requires_grad_(tensor.requires_grad)
            self._remember(tensor, made)
        return made


def _same(number: int) -> int:
    return number

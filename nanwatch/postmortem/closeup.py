"""A close look at one operation that made a non-finite value: what stood at the very elements that went bad.

The range of a whole tensor says little: that a divisor lies in -3 ... 5 does not make it zero anywhere. This is looked
at while the tensors are still there, for the few operations that may be an origin.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_map

from nanwatch.postmortem.op_families import SOFTMAXES, short
from nanwatch.postmortem.tensors import bad_elements

_NARROW = (torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
"""Types whose range is far smaller than float32's."""


@dataclass(frozen=True, slots=True)
class Span:
    """Smallest and largest of some elements; infinities count, NaN do not. Of complex numbers: the magnitude."""

    low: float
    high: float
    least: float
    """The magnitude of the element that is closest to zero."""

    @property
    def is_zero(self) -> bool:
        return self.low == 0 == self.high

    @property
    def absmax(self) -> float:
        return max(abs(self.low), abs(self.high))


@dataclass(frozen=True, slots=True)
class Closeup:
    """What is known of one operation beyond the ranges of its tensors."""

    at_bad: Mapping[str, Span] = field(default_factory=dict)
    """Operand -> its elements that went into the bad ones, for an element-wise operation. For softmax and its family
    `self` is the largest score of each bad row."""
    kept: Mapping[str, Span] = field(default_factory=dict)
    """In backward: what the forward operation had kept (`self`, `other`, `result`), at the bad elements where it was
    element-wise, whole otherwise."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Plain numbers among the arguments, lone-element results as `result1`; in backward also those that the forward
    operation had kept, as `kept.exponent`."""
    gradient: Span | None = None
    """In backward: the gradient that came in, at the bad elements."""
    fits_float32: bool = False
    """The same operation on the same values is finite in float32, and not in the narrow type in which it ran."""


NOTHING = Closeup()


def look(
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    operands: Sequence[tuple[str, torch.Tensor]],
    outputs: Sequence[torch.Tensor],
    worst: torch.Tensor,
    *,
    gradients: Sequence[torch.Tensor] = (),
    node: Any = None,
    forward_is_pointwise: bool = False,
) -> Closeup:
    """Look at an operation just run. `operands` are as they were before it; `worst` is its non-finite result.

    `gradients` are those operands that came in from another node of the backward graph.
    """
    try:
        bad = bad_elements(worst)
        numbers = _numbers(func, args, kwargs)
        numbers.update({f"result{i}": float(o) for i, o in enumerate(outputs) if o.dim() == 0 and o is not worst})
        at_bad = _operands_at(func, operands, bad, kwargs.get("dim", args[1] if len(args) > 1 else None))
        kept = _kept(node, bad, numbers, pointwise=forward_is_pointwise) if node is not None else {}
        spans = [s for g in gradients if (s := span_at(g, bad)) is not None]
        gradient = _union(spans)
        return Closeup(at_bad, kept, numbers, gradient, _fits_float32(func, args, kwargs, operands, worst, bad))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return NOTHING  # a layout or subclass that cannot be indexed: the ranges have to do


def span_of(tensor: torch.Tensor) -> Span | None:
    """The span of a whole tensor; None where there is no number in it."""
    value = tensor.detach()
    if value.is_meta or value.is_quantized or value.layout != torch.strided:
        return None
    value = value.abs() if value.is_complex() else value
    value = value.float() if not value.is_floating_point() or value.element_size() == 1 else value
    value = value[~torch.isnan(value)]
    if not value.numel():
        return None
    low, high = torch.aminmax(value)
    return Span(float(low), float(high), float(value.abs().amin()))


def span_at(tensor: torch.Tensor, bad: torch.Tensor) -> Span | None:
    """The span of the elements of a (broadcast) operand that stand at the bad ones."""
    if tensor.dim() > bad.dim() or tensor.layout != torch.strided:
        return None
    skipped = bad.dim() - tensor.dim()
    if any(own not in (1, size) for own, size in zip(tensor.shape, bad.shape[skipped:], strict=True)):
        return None
    return span_of(tensor.detach().expand(bad.shape)[bad])


def _union(spans: Sequence[Span]) -> Span | None:
    if not spans:
        return None
    return Span(min(s.low for s in spans), max(s.high for s in spans), min(s.least for s in spans))


def _numbers(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, float]:
    schema = func._schema.arguments
    given = {schema[i].name: a for i, a in enumerate(args) if i < len(schema)} | dict(kwargs)
    return {k: float(v) for k, v in given.items() if isinstance(v, int | float)}


def _operands_at(
    func: Any, operands: Sequence[tuple[str, torch.Tensor]], bad: torch.Tensor, dims: int | list[int] | None
) -> dict[str, Span]:
    spans: dict[str, Span | None] = {}
    if short(func._schema.name) in SOFTMAXES:
        spans["self"] = _largest_of_bad_rows(operands[0][1], bad, dims)
    elif torch.Tag.pointwise in func.tags:
        spans = {name: span_at(t, bad) for name, t in operands}
    return {k: v for k, v in spans.items() if v is not None}


def _largest_of_bad_rows(scores: torch.Tensor, bad: torch.Tensor, dims: int | list[int] | None) -> Span | None:
    if scores.numel() == 0 or dims is None:
        return None
    largest = scores.detach().amax(dims, keepdim=True)
    rows = bad.any(dims, keepdim=True) if bad.shape == scores.shape else bad.reshape(largest.shape)
    return span_of(largest[rows])


def _kept(node: Any, bad: torch.Tensor, numbers: dict[str, float], *, pointwise: bool) -> dict[str, Span]:
    """What autograd kept for this node. Reading it may be refused: released, changed in place, or checkpointed."""
    out: dict[str, Span] = {}
    for attribute in dir(node):
        if not attribute.startswith("_saved_"):
            continue
        name = attribute.removeprefix("_saved_")
        value = _read(node, attribute)
        if isinstance(value, torch.Tensor):
            span = span_at(value, bad) if pointwise else None
            span = span or span_of(value)
            if span is not None:
                out[name] = span
        elif isinstance(value, int | float):
            numbers[f"kept.{name}"] = float(value)
    return out


def _read(node: Any, attribute: str) -> Any:
    try:
        return getattr(node, attribute)
    except Exception:  # saved-tensor hooks are the program's and torch's own: they may raise anything
        return None


def _fits_float32(
    func: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    operands: Sequence[tuple[str, torch.Tensor]],
    worst: torch.Tensor,
    bad: torch.Tensor,
) -> bool:
    """Run it again in float32. Operations that draw random numbers are left alone."""
    if worst.dtype not in _NARROW or torch.Tag.nondeterministic_seeded in func.tags or not operands:
        return False
    before = iter(t for _, t in operands)

    def wide(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            leaf = next(before)  # in the order of the arguments, as they were before an in-place operation
            return leaf.detach().float() if leaf.dtype in _NARROW else leaf.detach().clone()
        return torch.float32 if leaf in _NARROW else leaf

    result = func(*tree_map(wide, list(args)), **tree_map(wide, dict(kwargs)))
    outputs = [t for t in (result if isinstance(result, tuple | list) else [result]) if isinstance(t, torch.Tensor)]
    same = [o for o in outputs if o.shape == worst.shape and o.is_floating_point()]
    return bool(same) and bool(torch.isfinite(same[0][bad]).all())

"""Looking at one tensor: is it finite, what is its range, which rows of the batch are bad."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch.nn.parameter import is_lazy

from nanwatch.probes.statistics import plain, which_nonfinite
from nanwatch.records import TensorSummary

State = Literal["finite", "inf", "nan"]


def state_of(tensor: torch.Tensor) -> State:
    """Whether any element is NaN, else whether any is infinite; finite for what can hold neither."""
    value = _values(tensor)
    if value is None:
        return "finite"
    low, high = _range(value)
    return "nan" if math.isnan(low) else "inf" if math.isinf(low) or math.isinf(high) else "finite"


def summarize(name: str, tensor: torch.Tensor) -> TensorSummary:
    """Shape, type and the range of the finite elements."""
    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    value = _values(tensor)
    if value is None:
        if tensor.is_meta or tensor.numel() == 0 or tensor.layout != torch.strided or tensor.dtype == torch.bool:
            return TensorSummary(name, shape, dtype, None, None, 0)
        low, high = _range(tensor.detach())
        return TensorSummary(name, shape, dtype, low, high, 0)
    low, high = _range(value)
    if math.isfinite(low) and math.isfinite(high):
        return TensorSummary(name, shape, dtype, low, high, 0)
    bad = value.numel() - int(torch.count_nonzero(torch.isfinite(value)))
    if bad == value.numel():
        return TensorSummary(name, shape, dtype, None, None, bad)
    most = torch.finfo(value.dtype).max
    low = float(torch.nan_to_num(value, most, most, most).amin())
    high = float(torch.nan_to_num(value, -most, -most, -most).amax())
    return TensorSummary(name, shape, dtype, low, high, bad)


def _range(value: torch.Tensor) -> tuple[float, float]:
    """Smallest and largest element, both NaN where one element is: one pass, many times faster than `isfinite`."""
    low, high = torch.stack(torch.aminmax(value)).tolist()
    return float(low), float(high)


def bad_rows(tensor: torch.Tensor, batch_size: int | None, *, exact: bool = False) -> tuple[int, ...]:
    """Rows of the batch with a bad element, where the first dimension is the batch or whole multiples of it.

    Bad is NaN where there are any: an infinity beside a NaN may be meant (a mask).

    Empty when the tensor has no such dimension, and when every row is bad (then rows tell nothing).  With `exact` the
    first dimension has to be the batch itself.
    """
    value = _values(tensor)
    if value is None or not batch_size or value.dim() == 0 or value.shape[0] % batch_size or not value.shape[0]:
        return ()
    if exact and value.shape[0] != batch_size:
        return ()
    rows = bad_elements(value.reshape(batch_size, -1)).any(1).nonzero().flatten().tolist()
    return tuple(rows) if len(rows) < batch_size else ()


def first_bad(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """Index of the first bad element (NaN before infinite); None where there is none or the layout has no index."""
    if tensor.layout != torch.strided or _values(tensor) is None:
        return None
    bad = bad_elements(tensor.detach())
    if not bool(bad.any()):
        return None
    flat = int(bad.reshape(-1).to(torch.uint8).argmax())
    index = []
    for size in reversed(tensor.shape):
        flat, at = divmod(flat, size)
        index.append(at)
    return tuple(reversed(index))


def element_at(
    tensor: torch.Tensor, index: tuple[int, ...], shape: Sequence[int]
) -> tuple[tuple[int, ...], float] | None:
    """The element of a (broadcast) operand that goes into `index` of a result of `shape`, and its own index."""
    if tensor.layout != torch.strided or tensor.dim() > len(shape) or tensor.is_complex() or tensor.is_meta:
        return None
    skipped = len(shape) - tensor.dim()
    if any(own not in (1, size) for own, size in zip(tensor.shape, shape[skipped:], strict=True)):
        return None
    own = tuple(0 if size == 1 else at for size, at in zip(tensor.shape, index[skipped:], strict=True))
    return own, float(tensor.detach()[own])


def bad_columns(tensor: torch.Tensor, limit: int = 8) -> tuple[int, ...]:
    """Columns (last dimension) with a bad element, where the tensor has several and few of them are bad."""
    value = _values(tensor)
    if value is None or value.dim() < 2 or tensor.layout != torch.strided or tensor.is_complex():
        return ()
    columns = bad_elements(value).reshape(-1, value.shape[-1]).any(0).nonzero().flatten().tolist()
    return tuple(columns) if len(columns) <= limit and len(columns) < value.shape[-1] else ()


def same_elements(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether both have the same form and every element is the same; NaN is the same as NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.layout != torch.strided or b.layout != torch.strided:
        a, b = a.to_dense(), b.to_dense()
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def is_mask(tensor: torch.Tensor) -> bool:
    """Whether infinities in it are written on purpose: an additive mask holds nothing but zeros and -inf."""
    value = _values(tensor)
    return value is not None and bool(((value == 0) | (value == float("-inf"))).all())


def nonfinite_among(tensors: Mapping[str, torch.Tensor]) -> set[str]:
    """Names of the tensors with a non-finite element; what has no values yet (lazy, meta) has none."""
    by_device: dict[torch.device, list[str]] = {}
    for name, tensor in tensors.items():
        if not is_lazy(tensor) and not tensor.is_meta:
            by_device.setdefault(tensor.device, []).append(name)
    return {names[i] for names in by_device.values() for i in which_nonfinite([tensors[n] for n in names])}


def absmax(*tensors: torch.Tensor) -> float:
    """The largest absolute value of the finite elements; 0 where there are none."""
    summaries = [summarize("", t) for t in tensors]
    return max((abs(v) for s in summaries for v in (s.min, s.max) if v is not None), default=0.0)


def bad_elements(value: torch.Tensor) -> torch.Tensor:
    """NaN where there are any, else infinities: beside a NaN an infinity may be meant."""
    nan = torch.isnan(value)
    return nan if bool(nan.any()) else torch.isinf(value)


def _values(tensor: torch.Tensor) -> torch.Tensor | None:
    """The floating-point values to look at, or None where there is nothing to look at."""
    if tensor.is_meta or not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_quantized:
        return None
    value = plain(tensor)
    return value if value.numel() else None

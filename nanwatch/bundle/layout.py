"""How a strided tensor lies in memory. Works on tensors by their own methods, so that this file needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_MAX_HOLES = 16
"""A tensor with holes is given its holes back while that takes at most this many times the memory of its values."""


def home_of(tensor: Any) -> tuple[str, int]:
    """Device and address of the memory that a tensor lies in: the same for tensors that share it."""
    return str(tensor.device), tensor.untyped_storage().data_ptr()


def span_of(shape: Sequence[int], stride: Sequence[int]) -> int:
    """Elements from the first to the last in memory."""
    return 0 if 0 in shape else 1 + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))


def is_dense(tensor: Any) -> bool:
    """Whether each element has its own place and there is no hole between them."""
    expected = 1
    for step, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1:
            if step != expected:
                return False
            expected *= size
    return True


def without_repeats(tensor: Any) -> Any:
    """The tensor with each dimension that only repeats its values (stride 0, as `expand` makes) narrowed to one."""
    for dim, step in enumerate(tensor.stride()):
        if step == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def spread(values: Any, shape: Sequence[int], stride: Sequence[int]) -> Any:
    """`values` in the given shape and with the given strides; without the strides where they cost too much memory.

    `values` has size 1 where `shape` only repeats.
    """
    span = span_of(shape, stride)
    if span == 0:
        return values.new_empty(0).as_strided(shape, stride)
    if span > _MAX_HOLES * max(values.numel(), 256):
        return values.expand(shape)
    memory = values.new_zeros(span)
    memory.as_strided(values.shape, stride).copy_(values)
    return memory.as_strided(shape, stride)


def own_share(tensor: Any) -> Any:
    """What this process holds of a tensor that is spread over several (a DTensor); of any other the tensor itself."""
    return tensor.detach().to_local() if is_shared_out(tensor) else tensor


def is_shared_out(value: object) -> bool:
    """Whether each of several processes holds a part of a tensor."""
    return hasattr(value, "to_local")

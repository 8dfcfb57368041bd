"""What a CUDA kernel asserts and the CPU only raises: after a failed assertion the process can use the device no more.

An experiment may make such a value: half of the batch, and an index points behind its end. So what is about to be
launched is looked at on the host first. That waits for the device, which an experiment may.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

_ALONG = {"index_select", "index_add", "index_copy", "index_fill", "index_reduce", "gather", "scatter", "scatter_add",
          "scatter_reduce"}  # fmt: skip
_ELEMENTS = {"index", "index_put", "_index_put_impl", "_unsafe_index", "_unsafe_index_put"}
_CLASSES = {"nll_loss_forward", "nll_loss2d_forward"}
_PROBABILITIES = {"binary_cross_entropy", "bernoulli"}
_KNOWN = {"aten", "prims", "prim", "_c10d_functional", "c10d_functional"}


def why_device_asserts(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The reason why an operation must not be launched on its CUDA device; None where it may, and on the CPU."""
    tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    if not any(t.is_cuda for t in tensors):
        return None
    return why_out_of_range(func, args, tensors)


def why_out_of_range(func: Any, args: tuple[Any, ...], tensors: list[torch.Tensor]) -> str | None:
    """The reason why the operation would fail on its values; None where it would not."""
    name = func._schema.name.partition("::")[2].rstrip("_")
    if func.namespace not in _KNOWN and any(not t.is_floating_point() for t in tensors):
        return f"{func._schema.name} reads integers and is not torch's own: what it does with them is not known"
    if name in _PROBABILITIES and not all(_within(t, 0.0, 1.0) for t in tensors if t.is_floating_point()):
        return f"{name} of what is no probability"
    if name == "multinomial" and not (_within(args[0], 0.0, float("inf")) and bool((args[0].sum(-1) > 0).all())):
        return "multinomial of what are no probabilities"
    for index, size, ignored in _indices(name, args):
        if index.numel() and not index.is_floating_point() and index.dtype != torch.bool:
            used = index if ignored is None else index[index != ignored]
            if used.numel() and not -size <= int(used.min()) <= int(used.max()) < size:
                return f"an index of {name} is out of range"
    return None


def _indices(name: str, args: tuple[Any, ...]) -> Iterator[tuple[torch.Tensor, int, int | None]]:
    """Each tensor of indices, the size that it points into, and the index that stands for nothing."""
    if name in _ALONG and isinstance(args[2], torch.Tensor) and args[0].dim():
        yield args[2], args[0].shape[args[1]], None
    elif name in {"embedding", "_embedding_bag"}:
        yield args[1], args[0].shape[0], None
    elif name in {"take", "put"}:
        yield args[1], args[0].numel(), None
    elif name in _CLASSES:
        yield args[1], args[0].shape[1 if args[0].dim() > 1 else 0], args[4]
    elif name in _ELEMENTS:
        at = 0
        for index in args[1]:
            if isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8):
                at += index.dim()
                continue
            if isinstance(index, torch.Tensor):
                yield index, args[0].shape[at], None
            at += 1


def _within(tensor: torch.Tensor, low: float, high: float) -> bool:
    return bool(((tensor >= low) & (tensor <= high)).all())

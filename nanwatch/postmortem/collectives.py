"""Collectives in a replay: one rank that runs one alone would wait for the others for ever.

Every collective of torch.distributed, and every point-to-point call, passes the dispatcher before it is sent. So a mode
sees it in time whatever code it comes from: a SyncBatchNorm, a function of the user's own, the backward of one. Nothing
has to be known of the model before, and a training that runs normally carries no hook for it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import distributed
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanwatch.probes.statistics import count_nonfinite

_NAMESPACES = {"c10d", "c10d_functional", "_c10d_functional", "_c10d_functional_autograd", "symm_mem", "_dtensor"}
_SEND_NOTHING = {"_wrap_tensor_autograd", "wait_tensor"}


class NeedsOthersError(Exception):
    """The replay came to a collective and stopped before it. `poisoned`: what was about to be sent and is bad."""

    def __init__(self, op: str, poisoned: list[torch.Tensor]) -> None:
        super().__init__(
            f"one rank alone cannot run the step again to its end: it stopped before {op}, where it would wait for the "
            "other ranks"
        )
        self.poisoned = poisoned


class Alone(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises NeedsOthersError in the place of a collective."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refused: NeedsOthersError | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if is_for_dtensor(types):
            return NotImplemented  # its own code comes next, and what that sends comes here again
        if is_collective(func):
            sent = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            self.refused = NeedsOthersError(func._schema.name, [t for t in sent if count_nonfinite(t)])
            raise self.refused
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Inside, no collective is sent. Raises: NeedsOthersError at the first, also where the program swallowed it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        yield
        return
    mode = Alone()
    try:
        with mode:
            yield
    except Exception as e:
        if mode.refused is not None and mode.refused is not e:
            raise mode.refused from e
        raise
    if mode.refused is not None:
        raise mode.refused


def is_for_dtensor(types: Any) -> bool:
    """Whether an operation is DTensor's to take apart: a mode returns NotImplemented, and sees the parts."""
    return any(t.__name__ == "DTensor" for t in types)


def is_collective(func: Any) -> bool:
    """Whether an operation talks to other ranks."""
    return names_collective(func._schema.name)


def names_collective(op: str) -> bool:
    """The same by the operation's name: `c10d::allreduce_`."""
    namespace, _, name = op.partition("::")
    return namespace in _NAMESPACES and name not in _SEND_NOTHING

"""A step with collectives, run again by all ranks together.

A rank that waits in a collective for one that does not come would wait for ever. So before each collective the ranks
meet in the group's store, and it is sent only when all of them have said that they are about to send the same. Who
waits too long, or breaks off, puts down "stop" instead. The first word counts for all: no rank is left in a collective.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed import distributed_c10d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nanwatch.postmortem.collectives import NeedsOthersError, is_collective, is_for_dtensor
from nanwatch.postmortem.exchange import Exchange

MEETING_S = 5.0
"""How long a rank is waited for at each collective. One that breaks off says so at once."""
_TO_OR_FROM_ONE = {"send", "recv_", "recv_any_source_", "isend", "irecv"}
_GO, _STOP = "go", "stop"


class Together(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends a collective when every rank is about to send the same one; else raises NeedsOthersError."""

    def __init__(self, exchange: Exchange, key: str, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._exchange = exchange
        self._key = key
        self._size = size
        self._meetings = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if is_for_dtensor(types):
            return NotImplemented
        if not is_collective(func):
            return func(*args, **(kwargs or {}))
        self._meet(func, args, kwargs)
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # The tracer looks at what came out: it has to be there.
            if isinstance(leaf, torch.ScriptObject):
                distributed_c10d.Work.unbox(leaf).wait()
            elif isinstance(leaf, torch.Tensor) and func.namespace == "_c10d_functional":
                torch.ops._c10d_functional.wait_tensor(leaf)
        return result

    def break_off(self) -> None:
        """Tell whoever waits at the next collective that this rank does not come."""
        self._exchange.settle(f"{self._key}/{self._meetings}", _STOP)

    def _meet(self, func: Any, args: Any, kwargs: Any) -> None:
        at = f"{self._key}/{self._meetings}"
        self._meetings += 1
        name = func._schema.name
        if name.partition("::")[2] in _TO_OR_FROM_ONE or not self._is_everybodys(args, kwargs):
            self._exchange.settle(at, _STOP)
            raise NeedsOthersError(name, [])
        shapes = [tuple(t.shape) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        here = f"{at}/{name} {shapes}"
        self._exchange.add(here)
        self._exchange.until(
            lambda: (self._exchange.add(here, 0) or 0) >= self._size or self._exchange.has(at), MEETING_S
        )
        all_here = (self._exchange.add(here, 0) or 0) >= self._size
        if self._exchange.settle(at, _GO if all_here else _STOP) != _GO:
            raise NeedsOthersError(name, [])

    def _is_everybodys(self, args: Any, kwargs: Any) -> bool:
        """Whether the collective is one of all ranks: of a part of them nobody else would know when it is due."""
        for leaf in tree_leaves((args, kwargs)):
            group = _group_of(leaf)
            if group is not None:
                return bool(group.size() == self._size)
        return False


def _group_of(value: Any) -> Any:
    try:
        if isinstance(value, torch.ScriptObject):
            return distributed_c10d.ProcessGroup.unbox(value)
        if isinstance(value, str):
            return getattr(distributed_c10d, "_resolve_process_group")(value)  # noqa: B009 - not in torch's stubs
    except Exception:  # another object, or another word: a reduction is a string as well
        return None
    return None


@contextlib.contextmanager
def together(exchange: Exchange, key: str, size: int, modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, collectives are sent if all ranks come to them. Sharded modules are afterwards as before.

    Raises: NeedsOthersError where they do not come.
    """
    mode = Together(exchange, key, size)
    try:
        with mode:
            yield
    except Exception:
        mode.break_off()
        raise
    finally:
        for module in modules:
            if _is_sharded_root(module):
                module.reset_iter_state()  # type: ignore[operator]


def why_not_together(modules: Iterable[nn.Module]) -> str | None:
    """The reason why not even all ranks together can run the step again; None when they can."""
    for module in modules:
        kinds = {cls.__name__ for cls in type(module).__mro__}
        if kinds & {"FullyShardedDataParallel", "PipelineStage", "DeepSpeedEngine"}:
            return f"{type(module).__name__} cannot be asked to run a forward again"
        if "FSDPModule" in kinds and (not hasattr(module, "reset_iter_state") or _accumulates(module)):
            return f"{type(module).__name__} is accumulating gradients"
    return None


def has_shards(modules: Iterable[nn.Module]) -> bool:
    """Whether FSDP2 spreads the parameters of one of the modules."""
    return any(hasattr(m, "_get_fsdp_state") for m in modules)


def _is_sharded_root(module: nn.Module) -> bool:
    state = getattr(module, "_get_fsdp_state", None)
    return state is not None and state()._is_root is not False


def _accumulates(module: nn.Module) -> bool:
    """Its own clean-up after a forward that no backward follows would drop what it has accumulated."""
    groups = module._get_fsdp_state()._fsdp_param_groups  # type: ignore[operator]
    return any(not g.reduce_grads or not g.all_reduce_grads or g._partial_reduce_output is not None for g in groups)

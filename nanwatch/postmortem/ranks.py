"""Several processes: which steps one of them may run again alone.

A forward or backward that contains a collective would wait for the other ranks for ever. DistributedDataParallel is
fine: its collectives are in the wrapper, and the module inside runs alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

_COLLECTIVE_MODULES = ("SyncBatchNorm", "FullyShardedDataParallel", "FSDP", "PipelineStage", "DeepSpeedEngine")


def rank_and_world_size() -> tuple[int, int] | None:
    """Of the default process group; None where there is none (yet)."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.get_rank(), distributed.get_world_size()


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel: its forward and gradients need no other rank."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def why_not_alone(modules: Mapping[str, nn.Module], parameters: Iterable[torch.Tensor]) -> str | None:
    """The reason why this process cannot run the step again by itself; None when it can."""
    for name, module in modules.items():
        kinds = {cls.__name__ for cls in type(module).__mro__}
        if not kinds.isdisjoint(_COLLECTIVE_MODULES):
            return f"{name or 'the model'} ({type(module).__name__}) talks to the other ranks inside of its forward"
    if any(type(p).__name__ == "DTensor" or hasattr(p, "to_local") for p in parameters):
        return "the parameters are sharded over the ranks"
    return None

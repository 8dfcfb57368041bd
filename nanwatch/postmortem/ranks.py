"""Several processes: which steps one of them may run again alone, and which of them tells of an incident.

Under an all-reduce every rank gets the bad gradients of one. DistributedDataParallel's collectives are in the wrapper:
the module inside runs alone, so each rank computes its own share again and knows whether it was the one. Where that
cannot be, or says nothing, the flags that the ranks exchange decide (exchange.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nanwatch.postmortem.exchange import Exchange
from nanwatch.postmortem.joint import together, why_not_together
from nanwatch.probes.trip import Trip
from nanwatch.records import Origin, Replay

_SHARDING_MODULES = ("FullyShardedDataParallel", "FSDPModule", "PipelineStage", "DeepSpeedEngine")
"""Broken off in the middle of their forward they would not be the same afterwards."""


def rank_and_world_size() -> tuple[int, int] | None:
    """Of the default process group; None where there is none (yet)."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.get_rank(), distributed.get_world_size()


def agreed(key: str, proposal: str) -> str | None:
    """A word that all ranks have in common: the proposal of the first that asks. None where they cannot be asked."""
    exchange = Exchange.open()
    return None if exchange is None else exchange.settle(key, proposal)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel: its forward and gradients need no other rank."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def without_wrappers(modules: Iterable[nn.Module]) -> None:
    """Let each DistributedDataParallel among the modules pass its call on to what it wraps.

    Its own forward expects a backward with an all-reduce to follow. The caller puts the attributes back.
    """
    for module in modules:
        if isinstance(module, DistributedDataParallel):
            module.__dict__["forward"] = module.module


def why_not_alone(modules: Mapping[str, nn.Module], parameters: Iterable[torch.Tensor]) -> str | None:
    """The reason why this process cannot even begin to run the step again by itself; None when it can."""
    for name, module in modules.items():
        kinds = {cls.__name__ for cls in type(module).__mro__}
        if not kinds.isdisjoint(_SHARDING_MODULES):
            return f"{name or 'the model'} ({type(module).__name__}) gets its parameters from the other ranks"
    if any(type(p).__name__ == "DTensor" or hasattr(p, "to_local") for p in parameters):
        return "the parameters are sharded over the ranks"
    return None


class Ranks:
    """The place of this process in its launch. The process group is looked up when it is needed: it may come late."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._told_at_attach = rank, world_size
        self._exchange: Exchange | None = None

    @property
    def place(self) -> tuple[int, int]:
        """Rank and number of ranks."""
        return rank_and_world_size() or self._told_at_attach

    @property
    def several(self) -> bool:
        return self.place[1] > 1

    def register(self) -> None:
        """Say that this rank is watched, once there is somebody to say it to."""
        exchange = self._connected()
        if exchange is not None:
            exchange.register()

    def leave(self) -> None:
        """Say that this rank is no longer watched."""
        if self._exchange is not None and rank_and_world_size() is not None:
            self._exchange.leave()

    def announce(self, trip: Trip) -> None:
        """Tell the others, before anything is looked into, that this rank saw a bad value, and whether in its loss."""
        exchange = self._connected() if trip.kind == "nonfinite" else None
        if exchange is not None:
            exchange.register()
            exchange.add(_flag(trip, bad_loss=trip.seen.where == "loss"))

    def company(
        self, trip: Trip, modules: Mapping[str, nn.Module]
    ) -> Callable[[], contextlib.AbstractContextManager[None]] | None:
        """What a replay runs in when all ranks run it together; None where they do not all want to."""
        exchange = self._connected() if trip.kind == "nonfinite" else None
        if exchange is None or why_not_together(modules.values()) is not None:
            return None
        size = self.place[1]
        all_here = exchange.until(lambda: sum(_flags(exchange, trip)) >= size)
        key = f"{trip.step}/together"
        if exchange.settle(key, "go" if all_here else "stop") != "go":
            return None
        return lambda: together(exchange, key, size, modules.values())

    def verdict_to_tell(
        self, trip: Trip, origin: Origin | None, verdict: Replay, *, needs_others: bool
    ) -> Replay | None:
        """The verdict for this rank's incident; None where another rank tells of it.

        `needs_others`: the replay could not go on without the other ranks, so a bad loss may be theirs.
        """
        if trip.kind != "nonfinite" or not self.several:
            return verdict
        exchange = self._connected()
        if exchange is None:
            shared = origin is None and trip.seen.where == "grad" and verdict.verdict == "not_reproduced"
            return None if shared else verdict
        if origin is not None:
            return verdict if _is_of_this_rank(origin) or exchange.first(_same_story(trip, origin)) else None
        bad_loss = trip.seen.where == "loss"
        if bad_loss and verdict.verdict == "failed" and not needs_others:
            return verdict
        return self._last_of_those_who_cannot_tell(exchange, trip, verdict, bad_loss=bad_loss)

    def _last_of_those_who_cannot_tell(
        self, exchange: Exchange, trip: Trip, verdict: Replay, *, bad_loss: bool
    ) -> Replay | None:
        """A bad loss that not all have is its rank's own. Else the last rank to find nothing tells that nobody did."""
        attached = exchange.attached or 1
        exchange.until(lambda: sum(_flags(exchange, trip)) >= attached)
        bad, fine = _flags(exchange, trip)
        if bad and fine:
            return verdict if bad_loss else None
        if (exchange.add(f"{trip.step}/found nothing") or bad + fine) < bad + fine:
            return None
        size = self.place[1]
        if attached < size:
            why = f"made on another rank: {attached} of {size} ranks are watched, and not this one's share was bad"
            return replace(verdict, verdict="failed", error=_joined(verdict.error, why))
        return replace(verdict, error=_joined(verdict.error, "the same on every rank") if size > 1 else verdict.error)

    def _connected(self) -> Exchange | None:
        if self._exchange is None and rank_and_world_size() is not None and self.several:
            self._exchange = Exchange.open()
        return self._exchange


def _flag(trip: Trip, *, bad_loss: bool) -> str:
    return f"{trip.step}/{'bad' if bad_loss else 'finite'} loss"


def _flags(exchange: Exchange, trip: Trip) -> tuple[int, int]:
    """Ranks with a bad loss, and those with a finite one, of all that saw something bad at this step."""
    bad, fine = (exchange.add(_flag(trip, bad_loss=bad_loss), 0) for bad_loss in (True, False))
    return bad or 0, fine or 0


def _is_of_this_rank(origin: Origin) -> bool:
    """The data of this rank; what lies in the shared parameters is the same story on every rank."""
    return origin.phase == "data" or bool(origin.batch_rows)


def _same_story(trip: Trip, origin: Origin) -> str:
    return f"{trip.step}/{origin.phase} {origin.op} {origin.param} {origin.file}:{origin.line}"


def _joined(*reasons: str | None) -> str:
    return "; ".join(r for r in reasons if r)

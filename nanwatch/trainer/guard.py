"""Which guard keeps the parameters from before a step, and whether what was asked for can be had."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from nanwatch.errors import SetupError
from nanwatch.probes.shadow import STATE_FACTOR, can_be_kept, size_bytes
from nanwatch.settings import Settings

Guard = Literal["shadow", "sync", "none"]

_MIB = 1 << 20


def check_guard(settings: Settings, models: Iterable[nn.Module]) -> None:
    """Refuse what cannot be.

    Raises: SetupError with what to do instead.
    """
    if settings.guard == "freeze":
        raise SetupError(
            "guard='freeze' is not available: use 'shadow' (a copy before each step), 'sync' (decides before each "
            "step) or 'auto'"
        )
    if settings.guard == "none" and settings.on_nonfinite != "record":
        raise SetupError(f"guard='none' cannot keep on_nonfinite={settings.on_nonfinite!r}: use 'auto'")
    if settings.guard != "shadow":
        return
    parameters = _trained(models)
    sharded = next((p for p in parameters if not can_be_kept(p) and not nn.parameter.is_lazy(p)), None)
    if sharded is not None:
        raise SetupError(
            f"guard='shadow' copies dense parameters, and one is a {type(sharded).__name__} ({sharded.layout}): "
            "use guard='auto' or 'sync'"
        )
    needed = shadow_bytes(parameters)
    if needed > settings.max_shadow_mib * _MIB:
        mib = -(-needed // _MIB)
        raise SetupError(
            f"guard='shadow' needs about {mib:,} MiB for copies of parameters and optimizer state, and max_shadow_mib "
            f"is {settings.max_shadow_mib:,}: set max_shadow_mib={mib} if there is memory for it, or use guard='auto'"
        )


def chosen_guard(settings: Settings, models: Iterable[nn.Module]) -> Guard:
    """What `auto` comes to: sync on the CPU; on CUDA shadow where it fits, else sync."""
    if settings.guard in {"shadow", "none"}:
        return "shadow" if settings.guard == "shadow" else "none"
    parameters = _trained(models)
    if settings.guard != "auto" or not any(p.device.type == "cuda" for p in parameters):
        return "sync"
    fits = shadow_bytes(parameters) <= settings.max_shadow_mib * _MIB
    return "shadow" if fits and all(can_be_kept(p) for p in parameters) else "sync"


def shadow_bytes(parameters: Iterable[torch.Tensor]) -> int:
    """What a shadow is expected to need: the parameters, their state, and on a device the gradients it keeps alive."""
    known = [p for p in parameters if not nn.parameter.is_lazy(p)]
    return sum(size_bytes(p) * (1 + STATE_FACTOR + (p.device.type != "cpu")) for p in known)


def told_guard(settings: Settings, guard: Guard, models: Iterable[nn.Module]) -> str:
    """For the line at attach: said where a copy is kept, and where `auto` could not keep one."""
    parameters = _trained(models)
    if guard == "shadow":
        return f"guard shadow (about {-(-shadow_bytes(parameters) // _MIB):,} MiB)"
    if settings.guard == "auto" and any(p.device.type == "cuda" for p in parameters):
        return f"guard sync (a shadow needs more than max_shadow_mib={settings.max_shadow_mib})"
    return ""


def _trained(models: Iterable[nn.Module]) -> list[torch.Tensor]:
    found = {id(p): p for model in models for p in model.parameters() if p.requires_grad}
    return list(found.values())

"""The models that are watched: their parameters in one fixed order, and the names that people know them by."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from nanwatch.probes.buffers import Slot
from nanwatch.records import NamesRecord

_WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|module|_forward_module|_fsdp_wrapped_module)(?=\.|$)")
_MAX_BLOCKS = 32


def clean(fqn: str) -> str:
    """The name without what wrappers put into it: `module.` of DDP, `_orig_mod.` of torch.compile."""
    return _WRAPPERS.sub(r"\1", fqn).replace("..", ".").strip(".")


class WatchedModels:
    """Name -> module for all attach calls of the process; `""` is the name of a model that is watched alone.

    `parameters` holds those that train, in a fixed order: row k of `stats_KS` is `parameters[k]`. `ids` are the ids of
    all parameters, frozen ones too.
    """

    def __init__(self, first_names_id: int = 0) -> None:
        self.models: dict[str, nn.Module] = {}
        self.parameters: list[nn.Parameter] = []
        self.names: tuple[str, ...] = ()
        self.ids: frozenset[int] = frozenset()
        self.names_id = first_names_id
        self.on_device = False
        """Some parameter is not on the CPU: reading a value makes the host wait."""
        self._shapes: list[int] = []

    def add(self, name: str, model: nn.Module) -> None:
        self.models[name] = model
        self.refresh()

    def remove(self, name: str) -> None:
        self.models.pop(name, None)
        self.refresh()

    def refresh(self) -> bool:
        """Look for parameters again (heads are added, layers unfrozen); True when the list changed."""
        everything = list(self.named_parameters())
        ids = frozenset(id(p) for _, p in everything)
        if ids != self.ids:
            self.ids = ids
        found = [(name, p) for name, p in everything if p.requires_grad]
        parameters = [p for _, p in found]
        shapes = [elements(p) for p in parameters]
        if shapes == self._shapes and all(a is b for a, b in zip(parameters, self.parameters, strict=True)):
            return False
        self._shapes = shapes
        self.on_device = any(p.device.type != "cpu" for p in parameters)
        self.parameters, self.names = parameters, tuple(name for name, _ in found)
        self.names_id += 1
        return True

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter once, with its clean name."""
        seen: set[int] = set()
        for prefix, model in self.models.items():
            for name, parameter in model.named_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield clean(_join(prefix, name)), parameter

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, (_, buffer) in self.placed_buffers().items():
            yield name, buffer

    def placed_buffers(self) -> dict[str, tuple[Slot, torch.Tensor]]:
        """Every buffer by its clean name, with the place that it lives in."""
        out: dict[str, tuple[Slot, torch.Tensor]] = {}
        for prefix, model in self.models.items():
            for path, module in model.named_modules():
                for name, buffer in module._buffers.items():
                    if buffer is not None:
                        out[clean(_join(prefix, _join(path, name)))] = (id(module), name), buffer
        return out

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Every module with its clean name; a wrapper and what it wraps share one name, the wrapped one comes last."""
        for prefix, model in self.models.items():
            for name, module in model.named_modules():
                yield clean(_join(prefix, name)), module

    def names_record(self) -> NamesRecord:
        return NamesRecord(
            self.names_id, self.names, tuple(elements(p) for p in self.parameters), tuple(_blocks(self.names))
        )


def elements(parameter: torch.Tensor) -> int:
    """Elements of a parameter; 0 for one of a lazy module that has no shape yet."""
    return 0 if is_lazy(parameter) else parameter.numel()


def count_elements(parameters: Iterable[torch.Tensor]) -> int:
    return sum(map(elements, parameters))


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name


def _blocks(names: tuple[str, ...]) -> list[str]:
    """For each tensor the block it is charted under: the deepest level of modules that gives few enough blocks."""
    modules = [name.split(".")[:-1] for name in names]
    for depth in range(max(map(len, modules), default=0), 0, -1):
        cut = [".".join(m[:depth]) or "root" for m in modules]
        if len(set(cut)) <= _MAX_BLOCKS:
            return cut
    return [m[0] if m else "root" for m in modules]

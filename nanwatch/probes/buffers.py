"""Buffers (running statistics, codebooks) as they were before a forward moved them on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch

from nanwatch.probes.statistics import which_nonfinite

MAX_BUFFER_BYTES = 64 * 1024 * 1024
SMALL_BYTES = 256 * 1024
"""Buffers up to this size are copied and looked at without asking for their version: batch normalisation moves its
statistics on without counting it up."""

Slot = tuple[int, str]
"""Where a buffer lives: id of its module, and its name there. The tensor in it may be replaced as well as changed."""


class BufferCopies:
    """Copies of a module's buffers; only what has changed since the last time is copied again."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._places = list(slots(module))
        total = sum(b.numel() * b.element_size() for *_, b in self._places)
        if total > MAX_BUFFER_BYTES:
            self._places = []
        self.saved: dict[Slot, torch.Tensor] = {}
        self._seen: dict[Slot, tuple[torch.Tensor, int]] = {}
        self.save()

    def save(self) -> None:
        """Bring the copies up to date."""
        into, now = [], []
        for module, name, _ in self._places:
            buffer = module._buffers.get(name)
            if buffer is None:
                continue
            slot = (id(module), name)
            seen = self._seen.get(slot)
            if seen is not None and seen[0] is buffer and seen[1] == buffer._version and not _may_move(buffer):
                continue
            self._seen[slot] = (buffer, buffer._version)
            saved = self.saved.get(slot)
            if saved is None or saved.shape != buffer.shape or saved.dtype != buffer.dtype:
                self.saved[slot] = buffer.detach().clone()
            else:
                into.append(saved)
                now.append(buffer.detach())
        if into:
            with torch.no_grad():
                torch._foreach_copy_(into, now)


def slots(module: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.Tensor]]:
    """Every buffer of a module and those below it that can be copied: its owner, its name there, itself."""
    for owner in module.modules():
        for name, buffer in owner._buffers.items():
            if buffer is not None and buffer.layout == torch.strided and not buffer.is_meta:
                yield owner, name, buffer


def _may_move(buffer: torch.Tensor) -> bool:
    return buffer.is_floating_point() and buffer.numel() * buffer.element_size() <= SMALL_BYTES


class BufferCheck:
    """Which buffers have become non-finite since the last look. Those that hold infinity on purpose never are."""

    def __init__(
        self,
        models: Callable[[], Iterable[torch.nn.Module]],
        placed: Callable[[], Mapping[str, tuple[Slot, torch.Tensor]]],
    ) -> None:
        self._models = models
        self._placed = placed
        self._seen: dict[Slot, tuple[torch.Tensor, int, bool]] = {}
        """The tensor, its version, and whether it was finite."""

    def newly_bad(self) -> dict[str, torch.Tensor]:
        """The buffers that were finite and are not any more. Cost: one read of those that have changed."""
        changed: dict[Slot, torch.Tensor] = {}
        for model in self._models():
            for owner, name, buffer in slots(model):
                seen = self._seen.get((id(owner), name))
                if seen is None or seen[0] is not buffer or seen[1] != buffer._version or _may_move(buffer):
                    changed[id(owner), name] = buffer
        looked_at = [(slot, b) for slot, b in changed.items() if b.is_floating_point()]
        bad = {looked_at[i][0] for i in which_nonfinite([b for _, b in looked_at])} if looked_at else set()
        new = {slot for slot in bad if slot in self._seen and self._seen[slot][2]}
        for slot, buffer in changed.items():
            self._seen[slot] = (buffer, buffer._version, slot not in bad)
        # Names cost a walk through all modules, so they are made only for what has gone bad.
        return {name: b for name, (slot, b) in sorted(self._placed().items()) if slot in new} if new else {}

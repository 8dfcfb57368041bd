"""Gradients that are gone when backward returns: an optimizer that steps inside the backward and frees them.

Tensor hooks see each gradient as it is computed. They cost a Python call a parameter, so they are used only once such a
program has been recognised.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.hooks import RemovableHandle

from nanwatch.shield import Shield


class GradientHooks:
    """Keeps the last gradient of each parameter until it is collected."""

    def __init__(self, shield: Shield) -> None:
        self.paused = False
        self._shield = shield
        self._handles: dict[int, RemovableHandle] = {}
        self._seen: dict[int, torch.Tensor] = {}

    @property
    def installed(self) -> bool:
        return bool(self._handles)

    def install(self, parameters: list[torch.nn.Parameter]) -> None:
        for p in parameters:
            if id(p) not in self._handles:
                keeper = self._shield.wrap(self._keeper(id(p)))
                self._handles[id(p)] = p.register_hook(keeper)  # type: ignore[no-untyped-call]

    def remove(self) -> None:
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        self._seen.clear()

    def collect(self) -> dict[int, torch.Tensor | None]:
        """Parameter's id -> its gradient in the backward that just ended."""
        seen: dict[int, torch.Tensor | None] = dict(self._seen)
        self._seen.clear()
        return seen

    def _keeper(self, key: int) -> Callable[[torch.Tensor], None]:
        def keep(gradient: torch.Tensor) -> None:
            if not self.paused:
                self._seen[key] = gradient

        return keep

"""What the program does to gradients after backward: GradScaler's factor and its skipped steps, and clipping."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import clip_grad

from nanwatch.probes.patching import Patch
from nanwatch.shield import Shield


class ScalingProbe:
    """Sees `GradScaler.scale`, `.step` and `.update` of every scaler, and the norm that clipping computes anyway."""

    def __init__(self, on_skip: Callable[[], None], shield: Shield) -> None:
        self.paused = False
        self.clip: tuple[float, torch.Tensor] | None = None
        """max_norm and the total norm before clipping, of the last clipping in this step."""
        self._scaled: dict[int, tuple[weakref.ref[torch.Tensor], torch.Tensor]] = {}
        self._scaler: weakref.ref[Any] | None = None
        self._on_skip = shield.wrap(on_skip)
        self._note_scaled = shield.wrap(self._remember)
        self._note_clip = shield.wrap(self._remember_clip)
        scaler = torch.amp.GradScaler
        self._patches = [
            Patch(scaler, "scale", self._scale),
            Patch(scaler, "_maybe_opt_step", self._maybe_step),
            Patch(clip_grad, "_clip_grads_with_norm_", self._clip),
        ]

    def install(self) -> None:
        for patch in self._patches:
            patch.install()

    def remove(self) -> None:
        for patch in reversed(self._patches):
            patch.remove()

    def unscaled(self, root: torch.Tensor) -> torch.Tensor | None:
        """The loss before GradScaler multiplied it, if `root` is what `scale` returned."""
        entry = self._scaled.get(id(root))
        return entry[1] if entry is not None and entry[0]() is root else None

    def scale(self, *, wait: bool = False) -> float:
        """The current factor; NaN without a scaler. One that is kept on a device is read only with `wait`."""
        scaler = self._scaler() if self._scaler is not None else None
        factor = getattr(scaler, "_scale", None)
        if factor is None or (factor.device.type != "cpu" and not wait):
            return float("nan")
        return float(factor)

    @property
    def in_use(self) -> bool:
        scaler = self._scaler() if self._scaler is not None else None
        return scaler is not None and scaler.is_enabled()

    def new_step(self) -> None:
        self.clip = None
        self._scaled.clear()

    def _scale(self, original: Callable[..., Any], scaler: Any, outputs: Any) -> Any:
        result = original(scaler, outputs)
        if not self.paused:
            self._note_scaled(scaler, outputs, result)
        return result

    def _remember(self, scaler: Any, outputs: Any, result: Any) -> None:
        if result is outputs:
            return  # switched off
        self._scaler = weakref.ref(scaler)
        if isinstance(outputs, torch.Tensor):
            self._scaled[id(result)] = (weakref.ref(result), outputs)

    def _maybe_step(
        self, original: Callable[..., Any], scaler: Any, optimizer: Any, state: Any, *args: Any, **kw: Any
    ) -> Any:
        if not self.paused:
            found = [f for f in state["found_inf_per_device"].values() if f.device.type == "cpu"]
            if any(float(f) for f in found):
                self._on_skip()
        return original(scaler, optimizer, state, *args, **kw)

    def _clip(
        self,
        original: Callable[..., Any],
        parameters: Any,
        max_norm: float,
        total_norm: torch.Tensor,
        *a: Any,
        **k: Any,
    ) -> Any:
        if not self.paused:
            self._note_clip(max_norm, total_norm)
        return original(parameters, max_norm, total_norm, *a, **k)

    def _remember_clip(self, max_norm: float, total_norm: torch.Tensor) -> None:
        self.clip = (float(max_norm), total_norm.detach())

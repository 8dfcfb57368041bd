"""What surrounds a call and changes its result: gradient mode, autocast, random number generators."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from typing import Any

import torch

from nanwatch.probes.flight_recorder import Ambient


@dataclass(slots=True)
class Rng:
    """States of the generators; the Python and NumPy ones only where the model's code mentions them."""

    cpu: torch.Tensor
    device: dict[int, torch.Tensor]
    python: Any = None
    numpy: Any = None

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for index, state in self.device.items():
            torch.cuda.set_rng_state(state, index)
        if self.python is not None:
            random.setstate(self.python)
        if self.numpy is not None:
            sys.modules["numpy.random"].set_state(self.numpy)


class Surroundings:
    """Reads the surroundings. `python_rng` switches the two slow generators on (10 and 50 microseconds a step)."""

    def __init__(self) -> None:
        self.python_rng = False
        self._devices = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

    def ambient(self) -> Ambient:
        autocast = tuple((d, torch.get_autocast_dtype(d)) for d in self._devices if torch.is_autocast_enabled(d))
        return Ambient(torch.is_grad_enabled(), autocast)

    def rng(self, *, everything: bool = False) -> Rng:
        device = {}
        if len(self._devices) > 1 and _cuda_can_be_asked():
            current = torch.cuda.current_device()
            device[current] = torch.cuda.get_rng_state(current)
        rng = Rng(torch.get_rng_state(), device)
        if everything or self.python_rng:
            rng.python = random.getstate()
            numpy_random = sys.modules.get("numpy.random")
            rng.numpy = None if numpy_random is None else numpy_random.get_state()
        return rng


def _cuda_can_be_asked() -> bool:
    """Not before CUDA is in use, and not while a graph is captured."""
    used: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return used and not torch.cuda.is_current_stream_capturing()


def mentions_python_rng(module: torch.nn.Module) -> bool:
    """Whether the class of a module has code that uses `random` or NumPy's generator."""
    words = {"random", "np", "numpy", "shuffle"}
    for cls in type(module).__mro__:
        if cls.__module__.startswith("torch."):
            return False
        for member in vars(cls).values():
            code = getattr(member, "__code__", None)
            if code is not None and words.intersection(code.co_names):
                return True
    return False

"""Modules as they were: what a forward changes of a module's own Python state is put back after a replay.

Counters, lists of auxiliary losses, private generators: a module may keep anything in its attributes. They are copied
one level deep; what lies deeper, or outside of the modules, cannot be known.
"""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn


@contextlib.contextmanager
def left_alone(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, the modules may change; afterwards their attributes are the same objects with the same content."""
    kept = [(m, dict(m.__dict__), [_restorer(v) for v in m.__dict__.values()]) for m in modules]
    try:
        yield
    finally:
        for module, attributes, restorers in kept:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for restore in restorers:
                if restore is not None:
                    restore()


def _restorer(value: Any) -> Callable[[], object] | None:
    """What puts an attribute's content back; None for what has none that a forward could change in place."""
    if isinstance(value, dict):
        return _refill(value, dict(value), value.update)
    if isinstance(value, set):
        return _refill(value, set(value), value.update)
    if isinstance(value, list | deque):
        return _refill(value, list(value), value.extend)
    if isinstance(value, torch.Generator):
        state = value.get_state()
        return lambda: value.set_state(state)
    if isinstance(value, np.random.Generator):
        bits = value.bit_generator.state
        return lambda: setattr(value.bit_generator, "state", bits)
    if isinstance(value, random.Random):
        words = value.getstate()
        return lambda: value.setstate(words)
    return None


def _refill(container: Any, content: Any, fill: Callable[[Any], None]) -> Callable[[], None]:
    def restore() -> None:
        container.clear()
        fill(content)

    return restore

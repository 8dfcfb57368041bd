"""Which module is running: forward hooks that are there only while something is traced."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from torch import nn


class Follows(Protocol):
    """Who wants to know."""

    modules: list[str]
    """The modules whose forward is running, innermost last."""
    calls: Counter[str]
    """How often each module's forward ran."""


@contextlib.contextmanager
def named(
    modules: Mapping[str, nn.Module],
    follower: Follows,
    hook: Callable[[Callable[..., None]], Callable[..., None]] = lambda fn: fn,
) -> Iterator[None]:
    """Inside, the follower is told. A wrapper and what it wraps may share a name.

    hook:  what becomes of each of the functions before it is put on a module.
    """

    def enter(name: str) -> Callable[..., None]:
        def pre(module: nn.Module, args: Any) -> None:
            follower.modules.append(name)
            follower.calls[name] += 1

        return pre

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if follower.modules:
            follower.modules.pop()

    by_id = {id(module): (name, module) for name, module in modules.items()}
    handles = []
    for name, module in by_id.values():
        handles.append(module.register_forward_pre_hook(hook(enter(name)), prepend=True))
        handles.append(module.register_forward_hook(hook(leave), always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

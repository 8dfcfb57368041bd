"""Replacing a function of torch, and giving it back in any order.

Others patch the same places (profilers, Accelerate, a second copy of us). A patch that something else has wrapped
cannot be taken out, so it is made transparent instead: it calls through and does nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


class Patch:
    """`owner.name` becomes `around(original, *args, **kwargs)` until `remove`; a class method gets its class first."""

    def __init__(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        self._owner = owner
        self._name = name
        self._around = around
        self._active = False
        self._wrapper: Any = None
        self._original: Any = None

    def install(self) -> None:
        self._original = inspect.getattr_static(self._owner, self._name)
        of_class = isinstance(self._original, classmethod)
        original = self._original.__func__ if of_class else getattr(self._owner, self._name)

        @functools.wraps(original)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not self._active:
                return original(*args, **kwargs)
            return self._around(original, *args, **kwargs)

        self._wrapper = classmethod(wrapper) if of_class else wrapper
        self._active = True
        setattr(self._owner, self._name, self._wrapper)

    def remove(self) -> None:
        self._active = False
        current = inspect.getattr_static(self._owner, self._name, None)
        if self._wrapper is not None and current is self._wrapper:
            setattr(self._owner, self._name, self._original)
        self._wrapper = None

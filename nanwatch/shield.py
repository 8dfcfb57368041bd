"""Our faults never reach the training.

Every hook that PyTorch or the user's program calls goes through a Shield: an exception of ours is counted and
reported once, and after `limit` of them the fuse blows and the probe stays silent. The clock and the reporter are
arguments, so that this file depends on nothing. With `strict` (tests) our faults are raised.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from nanwatch.errors import NonFiniteError

P = ParamSpec("P")
R = TypeVar("R")


class Shield:
    """Contains the faults of one probe. `faults` counts them; `blown` says that the probe was switched off."""

    def __init__(
        self, name: str, report: Callable[[str, BaseException], None], *, limit: int = 3, strict: bool = False
    ) -> None:
        self.name = name
        self.faults = 0
        self._report = report
        self._limit = limit
        self._strict = strict

    @property
    def blown(self) -> bool:
        return self.faults >= self._limit

    def wrap(self, fn: Callable[P, R]) -> Callable[P, R | None]:
        """`fn`, but returning None instead of raising. NonFiniteError passes: the user asked for it."""

        @functools.wraps(fn)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R | None:
            if self.faults >= self._limit:
                return None
            try:
                return fn(*args, **kwargs)
            except NonFiniteError:
                raise
            except Exception as e:  # the one place that swallows: that is what a shield is for
                self.contain(e)
                return None

        return guarded

    def contain(self, fault: BaseException) -> None:
        """Count and report one fault of ours."""
        self.faults += 1
        if self._strict:
            raise fault
        self._report(self.name, fault)

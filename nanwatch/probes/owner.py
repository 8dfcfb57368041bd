"""Which thread trains. The probes have no locks: they belong to one thread, and every other is left alone."""

from __future__ import annotations

import sys
from _thread import get_ident  # the identity of a thread, nothing that locks or starts one
from collections.abc import Callable


class Owner:
    """The thread whose forward and backward calls are observed.

    It is the first one that runs a forward with gradients. Another may take over when it does so while the owner is
    gone, or is between two steps.
    """

    def __init__(self, is_idle: Callable[[], bool]) -> None:
        self._thread: int | None = None
        self._is_idle = is_idle

    def is_me(self) -> bool:
        return self._thread == get_ident()

    def claim(self) -> bool:
        """Whether this thread, which trains, may be observed from now on."""
        me = get_ident()
        if self._thread == me:
            return True
        if self._thread is None or self._thread not in sys._current_frames() or self._is_idle():
            self._thread = me
            return True
        return False

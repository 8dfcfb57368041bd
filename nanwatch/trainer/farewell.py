"""How the trainer ends, told to the agent while there is time: exit, uncaught exception, Ctrl-C."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from nanwatch.errors import NonFiniteError

Reason = Literal["finished", "exception", "stopped", "detached", "signal"]


class Farewell:
    """Calls `say(reason, detail)` once when the process ends. Chains to the excepthook that was there before."""

    def __init__(self, say: Callable[[Reason, str], None]) -> None:
        self._say = say
        self._pid = os.getpid()
        self._reason: Reason = "finished"
        self._detail = ""
        self._previous = sys.excepthook
        self._hook = self._on_exception

    def install(self) -> None:
        sys.excepthook = self._hook
        atexit.register(self._at_exit)

    def remove(self) -> None:
        """Take the hooks back, unless something else has been put on top: then ours only passes on."""
        atexit.unregister(self._at_exit)
        if sys.excepthook == self._hook:
            sys.excepthook = self._previous

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # The message is left out: it may hold anything, a password in a URL for example.
        self._detail = kind.__name__
        self._reason = (
            "signal"
            if issubclass(kind, KeyboardInterrupt)
            else "stopped"
            if issubclass(kind, NonFiniteError)
            else "exception"
        )
        self._previous(kind, error, trace)

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:
            self._say(self._reason, self._detail)

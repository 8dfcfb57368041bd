"""How the trainer ends, told to the agent while there is time: exit, uncaught exception, Ctrl-C."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
from collections.abc import Callable
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Literal

from nanwatch.errors import NonFiniteError

Reason = Literal["finished", "exception", "stopped", "detached", "signal"]


class Farewell:
    """Calls `say(reason, detail)` when the process ends, perhaps twice, and `on_error` for the exception that ends it,
    before the excepthook that was there before: that one may not return.

    A child of multiprocessing (torch.multiprocessing.spawn) calls no excepthook, and a forked one nothing of atexit.
    """

    def __init__(self, say: Callable[[Reason, str], None], on_error: Callable[[BaseException], None]) -> None:
        self._say = say
        self._on_error = on_error
        self._pid = os.getpid()
        self._reason: Reason = "finished"
        self._detail = ""
        self._previous = sys.excepthook
        self._hook = self._on_exception
        self._at_child_exit: Finalize | None = None

    def install(self) -> None:
        sys.excepthook = self._hook
        atexit.register(self._at_exit)
        if multiprocessing.parent_process() is not None:
            self._at_child_exit = Finalize(None, self._leave_child, exitpriority=0)

    def remove(self) -> None:
        """Take the hooks back, unless something else has been put on top: then ours only passes on."""
        atexit.unregister(self._at_exit)
        if self._at_child_exit is not None:
            self._at_child_exit.cancel()
        if sys.excepthook == self._hook:
            sys.excepthook = self._previous

    def _on_exception(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # The message is left out: it may hold anything, a password in a URL for example.
        self._detail = kind.__name__
        self._reason = _reason_of(kind)
        if not issubclass(kind, NonFiniteError):
            self._on_error(error)
        self._previous(kind, error, trace)

    def _leave_child(self) -> None:
        error = sys.exception()
        if isinstance(error, SystemExit):
            # torch.multiprocessing hands the exception to the parent and leaves by an exit code.
            error = error.__context__ if error.code else None
        if error is not None:
            self._reason, self._detail = _reason_of(type(error)), type(error).__name__
            if not isinstance(error, NonFiniteError):
                self._on_error(error)
        self._at_exit()

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:
            self._say(self._reason, self._detail)


def _reason_of(kind: type[BaseException]) -> Reason:
    if issubclass(kind, KeyboardInterrupt):
        return "signal"
    return "stopped" if issubclass(kind, NonFiniteError) else "exception"

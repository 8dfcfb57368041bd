"""What the watched ranks tell one another at an onset: a few counters in the process group's key-value store.

Never a collective. Every call is one short request that answers at once, whoever else takes part; where the store
cannot be asked (a rank has left, another launcher) the answer is None and this rank decides alone.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch.distributed import distributed_c10d

PATIENCE_S = 2.0
"""How long the flags of the others are waited for: under an all-reduce they come within milliseconds."""
_POLL_S = 0.01
_ATTACHED = "attached"
_opened = itertools.count()


class Exchange:
    """A connection to the store of the default process group, one of its own: nobody else waits on it."""

    def __init__(self, store: Any) -> None:
        # Numbered, so that a second run of the same processes does not meet the counts of the first.
        self._store: Any = distributed_c10d.PrefixStore(f"nanwatch/{next(_opened)}", store)
        self._registered = False

    @classmethod
    def open(cls) -> Exchange | None:
        """Of the default group; None where there is none, or no store."""
        find = getattr(distributed_c10d, "_get_default_store", None)
        try:
            store = find() if find is not None else None
            return None if store is None else cls(_own_connection(store))
        except Exception:  # a backend with a store of its own kind
            return None

    def register(self) -> None:
        """Count this process among the watched ones."""
        if not self._registered:
            self._registered = True
            self.add(_ATTACHED)

    def leave(self) -> None:
        """No longer watched."""
        if self._registered:
            self._registered = False
            self.add(_ATTACHED, -1)

    @property
    def attached(self) -> int | None:
        """How many ranks are watched."""
        return self.add(_ATTACHED, 0)

    def add(self, key: str, n: int = 1) -> int | None:
        """Count up, in one step for all ranks; the new count. 0 reads it."""
        answer = self._ask(lambda: self._store.add(key, n))
        return None if answer is None else int(answer)

    def first(self, key: str) -> bool:
        """Whether this rank is the first to say `key`. Also where nobody can be asked: better twice than never."""
        return self.add(key) in {None, 1}

    def has(self, key: str) -> bool | None:
        """Whether something is settled under `key`."""
        answer = self._ask(lambda: self._store.check([key]))
        return None if answer is None else bool(answer)

    def settle(self, key: str, value: str) -> str | None:
        """The value of `key`, which is the one that was proposed first."""
        answer = self._ask(lambda: self._store.compare_set(key, "", value))
        return None if answer is None else bytes(answer).decode()

    def until(self, done: Callable[[], bool | None], timeout_s: float = PATIENCE_S) -> bool:
        """Wait for `done()`; False after `timeout_s`, or at once when it gives None."""
        deadline = time.monotonic() + timeout_s
        while not (answer := done()):
            if answer is None or time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_S)
        return True

    @staticmethod
    def _ask(request: Callable[[], Any]) -> Any:
        try:
            return request()
        except Exception:  # the rank that serves the store is gone
            return None


def _own_connection(store: Any) -> Any:
    """A blocking wait of somebody else's on the same connection would make us wait as well."""
    own = store.clone()
    own.set_timeout(timedelta(seconds=PATIENCE_S))
    return own

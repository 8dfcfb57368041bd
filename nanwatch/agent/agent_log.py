"""`agent.log`: what the agent did. Bounded, private, and flushed with each line."""

from __future__ import annotations

import faulthandler
import logging
import os
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path

MAX_BYTES = 4 * 1024 * 1024
REPEAT_S = 60.0


def open_log(run_dir: Path) -> None:
    """Send what `nanwatch` loggers say to `agent.log`, and a crash of the interpreter too.

    Other libraries' loggers are left out: HTTP clients put addresses, and with them secrets, into their messages.
    """
    path = run_dir / "agent.log"
    # A descriptor of its own for crashes: the handler's is closed, and its number reused, when the file rotates.
    faulthandler.enable(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600))
    handler = RotatingFileHandler(path, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(OncePerMinute())
    logger = logging.getLogger("nanwatch")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # Else logging's last resort prints their warnings to stderr, which may be this very file.
    logging.getLogger().addHandler(logging.NullHandler())


class OncePerMinute(logging.Filter):
    """Lets the same sentence through once a minute: a full disk would otherwise be told fifty times a second."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if record.created - self._said.get(text, float("-inf")) < REPEAT_S:
            return False
        if len(self._said) > 1000:
            self._said.clear()
        self._said[text] = record.created
        return True

"""One agent a run folder: a lock file that names its holder, so that a dead holder's lock can be taken over."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import psutil

from nanwatch.agent.heartbeat import START_TOLERANCE_S
from nanwatch.agent.json_file import write_json

FOREIGN_STALE_S = 60.0
"""The holder touches its lock every few seconds; on another host that is the only sign of life."""


class AgentLock:
    """`agent.lock` in the run's folder: pid, start time and host of the agent, and whether it is about to end."""

    def __init__(self, run_dir: Path) -> None:
        self.path = run_dir / "agent.lock"
        me = psutil.Process()
        self._me = {"pid": me.pid, "start_time": me.create_time(), "host": socket.gethostname(), "ending": False}

    def acquire(self) -> bool:
        """Take the lock; False when a live agent holds it. Raises: OSError."""
        for _ in range(3):
            try:
                fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            except FileExistsError:
                if self._held():
                    return False
                self._remove_stale()
                continue
            with open(fd, "w") as file:
                json.dump(self._me, file)
            return True
        return False

    def holder_is_ending(self) -> bool:
        """Whether the holder is on its way out, so that waiting for the lock is worth while."""
        return bool(self._content().get("ending"))

    def mark_ending(self) -> None:
        """Tell the next agent to wait. Raises: OSError."""
        write_json(self.path, {**self._me, "ending": True})

    def mark_serving(self) -> None:
        """Take `mark_ending` back. Raises: OSError."""
        write_json(self.path, self._me)

    def touch(self) -> None:
        """A sign of life for agents on other hosts."""
        try:
            os.utime(self.path)
        except OSError:
            pass

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        if self._content().get("pid") == self._me["pid"]:
            self.path.unlink(missing_ok=True)

    def _held(self) -> bool:
        try:
            age_s = time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return False
        holder = self._content()
        if holder.get("host") != self._me["host"]:
            # Also a lock without content: its maker may be between creating and writing it.
            return age_s < (FOREIGN_STALE_S if holder else 2.0)
        try:
            started = psutil.Process(int(holder["pid"])).create_time()
        except (psutil.Error, KeyError, ValueError):
            return False
        return bool(abs(started - float(holder["start_time"])) <= START_TOLERANCE_S)

    def _remove_stale(self) -> None:
        # Renamed before it is removed: of two agents that both saw it stale, only one moves the old file away.
        aside = self.path.with_name(f"agent.lock.stale.{os.getpid()}")
        try:
            os.rename(self.path, aside)
            aside.unlink()
        except FileNotFoundError:
            pass

    def _content(self) -> dict[str, Any]:
        try:
            content = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

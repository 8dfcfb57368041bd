"""Whether the trainer lives, and how it ended, seen from a process that is not its parent.

A pidfd, never a pipe: forked DataLoader workers inherit the write end of a pipe and keep it open after the trainer is
gone. Source of the exit status: PIDFD_GET_INFO, Linux 6.15, https://docs.kernel.org/filesystems/pidfs.html; before
that, the zombie's entry in /proc.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import struct
import time
from dataclasses import dataclass

import psutil

START_TOLERANCE_S = 5.0
"""psutil computes a start time from the boot time, which moves when the clock is set."""

_PIDFD_GET_INFO = 0xC040FF0B  # _IOWR(0xFF, 11, struct pidfd_info of 64 bytes)
_PIDFD_INFO_EXIT = 1 << 3
_PIDFD_INFO = struct.Struct("=QQ11Ii")
_STAT_EXIT_CODE = 49  # field 52 of /proc/PID/stat, counted behind the name in parentheses


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended. Both None: nobody could tell."""

    code: int | None = None
    signal: int | None = None

    @property
    def known(self) -> bool:
        return self.code is not None or self.signal is not None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"killed by {_signal_name(self.signal)}"
        return "exit code unknown" if self.code is None else f"exit code {self.code}"


class Process:
    """One trainer process, told from a later one with the same pid by when it started (Unix seconds, as psutil has it).

    `earliest`, `latest`: between which two times it must have started. Without such a process it counts as gone.
    """

    def __init__(self, pid: int, earliest_unix_s: float, latest_unix_s: float) -> None:
        self.pid = pid
        self._exit: ExitStatus | None = None
        self._fd = self._open(earliest_unix_s - START_TOLERANCE_S, latest_unix_s + START_TOLERANCE_S)

    def alive(self) -> bool:
        """Whether the process runs; a zombie does not."""
        if self._fd < 0:
            return False
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(0):
            return True
        self._read_exit()
        return False

    def exit_status(self, patience_s: float = 1.0) -> ExitStatus:
        """How it ended; waits up to `patience_s` for its parent to collect it where only then the kernel tells."""
        until = time.monotonic() + patience_s
        while self._fd >= 0 and not self._read_exit() and time.monotonic() < until:
            time.sleep(0.02)
        return self._exit or ExitStatus()

    def close(self) -> None:
        """Give the descriptor back; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, earliest: float, latest: float) -> int:
        try:
            fd = os.pidfd_open(self.pid)
        except (ProcessLookupError, ValueError):
            return -1
        # Compared after the descriptor is held: from here on the pid cannot go to another process unseen.
        try:
            fits = earliest <= psutil.Process(self.pid).create_time() <= latest
        except psutil.Error:
            fits = False
        if not fits:
            os.close(fd)
            return -1
        return fd

    def _read_exit(self) -> bool:
        if self._exit is None:
            status = _from_pidfd(self._fd)
            if status is None:
                status = _from_zombie(self.pid)
            if status is not None:
                self._exit = ExitStatus(signal=status & 0x7F) if status & 0x7F else ExitStatus(code=status >> 8 & 0xFF)
        return self._exit is not None


def _from_pidfd(fd: int) -> int | None:
    info = bytearray(_PIDFD_INFO.pack(_PIDFD_INFO_EXIT, 0, *[0] * 11, 0))
    try:
        fcntl.ioctl(fd, _PIDFD_GET_INFO, info)
    except OSError as e:
        if e.errno in {errno.ENOTTY, errno.EINVAL, errno.ESRCH, errno.EREMOTE, errno.ENOSYS}:
            return None
        raise
    fields = _PIDFD_INFO.unpack(info)
    return int(fields[-1]) if fields[0] & _PIDFD_INFO_EXIT else None


def _from_zombie(pid: int) -> int | None:
    """The status of a process that its parent has not collected yet; None when there is none or it is hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as f:
            fields = f.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[_STAT_EXIT_CODE]) if fields[0] in {b"Z", b"X"} else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""The trainer's end of the spool: one `os.write` a record, no lock, no buffer, never an exception."""

from __future__ import annotations

import os
from collections.abc import Callable

from nanwatch.records import Record
from nanwatch.spool.frames import HEADER, encode

SEGMENT_BYTES = 4 * 1024 * 1024


class SpoolWriter:
    """Appends records to `<folder>/000001.seg`, `000002.seg`, ... and starts a new segment every `segment_bytes`.

    A failing disk costs telemetry, never training: what cannot be written is counted in `dropped`, and `report` is
    called once with the reason. A folder that has segments already is continued with the next number.

    Raises: OSError, only here, when the folder cannot be made: the caller may choose another one.
    """

    def __init__(self, folder: str, report: Callable[[str], None], segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self.sent = 0
        self.dropped = 0
        self._report = report
        self._segment_bytes = segment_bytes
        self._size = 0
        self._fd = -1
        os.makedirs(folder, mode=0o700, exist_ok=True)
        names = (name.removesuffix(".seg") for name in os.listdir(folder) if name.endswith(".seg"))
        self._segment = max((int(name) for name in names if name.isdigit()), default=0)
        self._roll()

    @property
    def position(self) -> tuple[int, int]:
        """Segment number and byte offset after the last whole record: what the agent acknowledges."""
        return self._segment, self._size

    def write(self, record: Record) -> bool:
        """Append one record; False if it was dropped."""
        try:
            frame = encode(record)
            if self._size + len(frame) > self._segment_bytes and self._size > 0:
                self._roll()
            # The header goes with the first frame: a disk that is full in between must not leave frames without one.
            self._append(frame if self._size else HEADER + frame)
        except (OSError, ValueError) as e:
            if not self.dropped:
                self._report(f"spool: {e}; further records that cannot be written are counted as dropped")
            self.dropped += 1
            return False
        self.sent += 1
        return True

    def close(self) -> None:
        """Close the open segment; safe to call twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, data: bytes) -> None:
        if self._fd < 0:
            raise OSError("the spool is closed")
        written = os.write(self._fd, data)
        if written != len(data):
            # A full disk leaves a short write: cut it off, so that the segment still ends with a whole record.
            os.ftruncate(self._fd, self._size)
            raise OSError(28, "no space left on device")
        self._size += written

    def _roll(self) -> None:
        fd = os.open(
            os.path.join(self.folder, f"{self._segment + 1:06d}.seg"),
            os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        self.close()
        self._fd, self._segment, self._size = fd, self._segment + 1, 0

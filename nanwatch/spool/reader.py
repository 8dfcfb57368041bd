"""The agent's end of the spool: follows the segments of one rank and survives what a crash leaves behind."""

from __future__ import annotations

import os
from pathlib import Path

from nanwatch.errors import SpoolError
from nanwatch.records import Record
from nanwatch.spool.frames import HEADER, decode


class SpoolReader:
    """Reads records in order from `folder`; call `read` again and again to follow a live writer.

    A damaged frame ends its segment: the rest of it is skipped and counted in `damaged`, because a length that is
    wrong leaves no way to find the next frame. An unfinished frame at the end of the last segment is waited for.
    """

    def __init__(self, folder: Path, start: tuple[int, int] = (1, 0)) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._segment, self._offset = start

    @property
    def position(self) -> tuple[int, int]:
        """Segment number and byte offset up to which everything was read."""
        return self._segment, self._offset

    def read(self, limit: int = 10_000) -> list[Record]:
        """Up to `limit` records that are there now; empty when the writer has written nothing new."""
        out: list[Record] = []
        while len(out) < limit:
            path = self._path(self._segment)
            try:
                data = path.read_bytes() if self._offset == 0 else _read_from(path, self._offset)
            except FileNotFoundError:
                if not self._skip_to_existing():
                    return out
                continue
            done = self._read_segment(data, out, limit)
            if done and self._path(self._segment + 1).exists():
                # The writer rolls only after its last write, so what was read before the check may be short.
                if self._grew():
                    continue
                self._segment, self._offset = self._segment + 1, 0
                continue
            return out
        return out

    def _read_segment(self, data: bytes, out: list[Record], limit: int) -> bool:
        """Decode `data`, which starts at the current offset; True when the end of what is there was reached."""
        at = 0
        if self._offset == 0:
            if len(data) < len(HEADER):
                return True
            if data[: len(HEADER)] != HEADER:
                self._give_up(len(data), "unknown header or future version")
                return True
            at = len(HEADER)
        while len(out) < limit:
            try:
                record, following = decode(data, at)
            except SpoolError as e:
                self._give_up(self._offset + len(data), str(e))
                return True
            if record is None:
                self._offset += at
                return True
            out.append(record)
            at = following
        self._offset += at
        return False

    def _give_up(self, offset: int, reason: str) -> None:
        self.damaged.append(f"{self._path(self._segment).name}: {reason}")
        self._offset = offset

    def _grew(self) -> bool:
        return self._path(self._segment).stat().st_size > self._offset and not self._torn()

    def _torn(self) -> bool:
        """A frame that stays unfinished although the writer went on to the next segment."""
        try:
            record, _ = decode(_read_from(self._path(self._segment), self._offset), 0)
        except SpoolError:
            return False
        if record is None:
            self.damaged.append(f"{self._path(self._segment).name}: torn record at the end")
        return record is None

    def _skip_to_existing(self) -> bool:
        later = sorted(int(p.stem) for p in self.folder.glob("*.seg") if p.stem.isdigit())
        later = [n for n in later if n > self._segment]
        if not later:
            return False
        self.damaged.append(f"{self._path(self._segment).name}: missing")
        self._segment, self._offset = later[0], 0
        return True

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:06d}.seg"


def _read_from(path: Path, offset: int) -> bytes:
    with open(path, "rb") as f:
        f.seek(offset, os.SEEK_SET)
        return f.read()

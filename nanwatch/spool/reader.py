"""The agent's end of the spool: follows the segments of one rank and survives what a crash leaves behind."""

from __future__ import annotations

from pathlib import Path

from nanwatch.errors import SpoolError
from nanwatch.records import Record
from nanwatch.spool.frames import HEADER, decode, next_frame

Position = tuple[int, int]
"""Segment number and byte offset in it."""


class SpoolReader:
    """Reads records in order from `folder`; call `read` again and again to follow a live writer.

    Behind a damaged frame it goes on at the next whole one, and says so in `damaged`. An unfinished frame at the end
    of the last segment is waited for.
    """

    def __init__(self, folder: Path, start: Position = (1, 0)) -> None:
        self.folder = folder
        self.damaged: list[str] = []
        self._segment, self._offset = start
        self._waiting_at: tuple[int, int, int] | None = None
        self._foreign = 0

    @property
    def position(self) -> Position:
        """Segment number and byte offset up to which everything was read."""
        return self._segment, self._offset

    def read(self, limit: int = 10_000) -> list[Record]:
        """Up to `limit` records that are there now; empty when the writer has written nothing new."""
        return [record for record, _ in self.read_located(limit)]

    def read_located(self, limit: int = 10_000, *, final: bool = False) -> list[tuple[Record, Position]]:
        """As `read`, each record with the position behind it. `final`: the writer is gone, nothing is waited for."""
        out: list[tuple[Record, Position]] = []
        while len(out) < limit:
            # The writer rolls only after its last write: what is read after this check is all that the segment gets.
            followed = self._path(self._segment + 1).exists()
            try:
                data = self._rest()
            except FileNotFoundError:
                if not self._skip_to_existing():
                    break
                continue
            whole = self._read_segment(data, followed or final, out, limit)
            if not whole or not followed:
                break
            self._segment, self._offset = self._segment + 1, 0
        return out

    def _read_segment(self, data: bytes, closed: bool, out: list[tuple[Record, Position]], limit: int) -> bool:
        """Decode `data`, which starts at the current offset; False when `limit` ended it early."""
        base, at = self._offset, 0
        if base == 0 and data:
            at = self._behind_header(data, closed)
        if self._segment == self._foreign:
            at = len(data)
        while len(out) < limit:
            try:
                record, following = decode(data, at)
            except SpoolError as e:
                at = self._behind_damage(data, at, str(e))
                continue
            if record is None:
                rest = len(data) - at
                if rest and (closed or self._stalled(base + at, base + len(data))):
                    found = next_frame(data, at + 1)
                    if found is not None or closed:
                        self._note("torn record")
                        at = len(data) if found is None else found
                        continue
                self._offset = base + at
                return True
            out.append((record, (self._segment, base + following)))
            at = following
        self._offset = base + at
        return False

    def _behind_header(self, data: bytes, closed: bool) -> int:
        if data.startswith(HEADER):
            return len(HEADER)
        if len(data) < len(HEADER) and not closed:
            return 0
        if data[:4] == HEADER[:4] and len(data) >= len(HEADER):
            self._note(f"version {int.from_bytes(data[4:8], 'little')} of the format is unknown to this nanwatch")
            self._foreign = self._segment
            return len(data)
        return self._behind_damage(data, -1, "unknown header")

    def _behind_damage(self, data: bytes, at: int, reason: str) -> int:
        self._note(reason)
        found = next_frame(data, at + 1)
        return len(data) if found is None else found

    def _stalled(self, at: int, end: int) -> bool:
        """Whether a frame stayed unfinished although more was written: its length is wrong, not its end late."""
        before, self._waiting_at = self._waiting_at, (self._segment, at, end)
        return before is not None and before[:2] == (self._segment, at) and end > before[2]

    def _note(self, reason: str) -> None:
        self.damaged.append(f"{self._path(self._segment).name}: {reason}")

    def _skip_to_existing(self) -> bool:
        later = sorted(int(p.stem) for p in self.folder.glob("*.seg") if p.stem.isdigit())
        later = [n for n in later if n > self._segment]
        if not later:
            return False
        self._note("missing")
        self._segment, self._offset = later[0], 0
        return True

    def _rest(self) -> bytes:
        with open(self._path(self._segment), "rb") as f:
            f.seek(self._offset)
            return f.read()

    def _path(self, segment: int) -> Path:
        return self.folder / f"{segment:06d}.seg"

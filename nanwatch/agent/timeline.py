"""Every StepRecord at full resolution, as Parquet, and the last steps in memory for bundles.

Rows go to `timeline/part-000001.parquet` and so on, each whole or not there, so that a kill costs half a minute at
most; `merge` makes one `timeline.parquet` of them.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanwatch.agent.timeline_rows import SCHEMA, rows
from nanwatch.records import NamesRecord, StepRecord
from nanwatch.spool.reader import Position

PART_ROWS = 100_000
PART_INTERVAL_S = 30.0
ROW_GROUP_ROWS = 500_000
LOOSE_PARTS = 64
"""More parts than this are joined into one: a week of training must not leave twenty thousand files."""
RING_BYTES = 64 * 1024 * 1024

_POSITIONS = b"nanwatch.spool_positions"


class Timeline:
    """Writes the timeline of a run. `covered` tells, by rank, up to which position of the spool it is on disk.

    A Timeline made in a folder that has parts goes on behind them: records up to `covered` are not written twice.
    """

    def __init__(
        self, run_dir: Path, *, history_steps: int, part_rows: int = PART_ROWS, part_interval_s: float = PART_INTERVAL_S
    ) -> None:
        self.path = run_dir / "timeline.parquet"
        self._folder = run_dir / "timeline"
        self._part_rows = part_rows
        self._part_interval_s = part_interval_s
        self._history_steps = history_steps
        self._names: dict[tuple[int, int], NamesRecord] = {}
        self._rings: dict[int, deque[StepRecord]] = {}
        self._pending: list[StepRecord] = []
        self._pending_rows = 0
        self._reached: dict[int, Position] = {}
        self._last_part_s: float | None = None
        self._adopt()
        self.covered = self._covered_on_disk()

    def names(self, rank: int, record: NamesRecord) -> None:
        """The names of the tensors in that rank's following steps."""
        self._names[rank, record.names_id] = record

    def add(self, record: StepRecord, position: Position) -> None:
        """Take in one step, which ends at `position` of its rank's spool."""
        self._remember(record)
        self._reached[record.rank] = position
        if position > self.covered.get(record.rank, (0, 0)):
            self._pending.append(record)
            self._pending_rows += 1 + len(record.stats_KS)

    def write_if_due(self, now_s: float) -> None:
        """Write a part when there are many rows or the last one is half a minute ago (`now_s` monotonic)."""
        if self._last_part_s is None:
            self._last_part_s = now_s
        if self._pending_rows >= self._part_rows or now_s - self._last_part_s >= self._part_interval_s:
            self.write()
            self._last_part_s = now_s

    def write(self) -> None:
        """Put everything that is pending on disk. Raises: OSError; then it stays pending."""
        if not self._pending:
            return
        self._folder.mkdir(mode=0o700, exist_ok=True)
        parts = self._parts()
        number = 1 + (_last_number(parts[-1]) if parts else 0)
        reached = {**self.covered, **self._reached}
        _write(self._folder / f"part-{number:06d}.parquet", iter([rows(self._pending, self._names)]), reached)
        self._pending, self._pending_rows, self.covered = [], 0, reached
        if len(parts) >= LOOSE_PARTS:
            self._join([*parts, self._folder / f"part-{number:06d}.parquet"])

    def merge(self, *, final: bool = False) -> Path | None:
        """`timeline.parquet` with everything so far; None when there was no step. With `final` the parts go.

        Raises: OSError, also when the disk is full; the parts stay then.
        """
        self.write()
        parts = self._parts()
        if not parts:
            return self.path if self.path.exists() else None
        _write(self.path, _row_groups(parts), self.covered)
        if final:
            for part in parts:
                part.unlink()
            self._folder.rmdir()
        return self.path

    def history(self, steps: int, until_step: int | None) -> pa.Table:
        """The last `steps` steps of every rank up to and including `until_step` (None: the newest), from memory."""
        chosen: list[StepRecord] = []
        for ring in self._rings.values():
            fitting = [r for r in ring if until_step is None or r.step <= until_step]
            chosen += fitting[-steps:]
        return rows(chosen, self._names)

    def _remember(self, record: StepRecord) -> None:
        ring = self._rings.setdefault(record.rank, deque())
        ring.append(record)
        # Twice the history: a bundle is finished some steps after the step that it is about.
        fit_in_memory = max(RING_BYTES // max(record.stats_KS.nbytes, 1), 2)
        while len(ring) > min(2 * self._history_steps, fit_in_memory):
            ring.popleft()

    def _parts(self) -> list[Path]:
        """The parts in order, without those that a joined one has replaced and without unfinished ones."""
        found = sorted(self._folder.glob("part-*.parquet"), key=lambda p: (_first_number(p), -_last_number(p)))
        out: list[Path] = []
        for part in found:
            if not out or _last_number(part) > _last_number(out[-1]):
                out.append(part)
        return out

    def _join(self, parts: list[Path]) -> None:
        # The first joined part grows with the run: it is left alone until the rest has outgrown it.
        sizes = [p.stat().st_size for p in parts]
        start = next((i for i in range(len(parts)) if sizes[i] <= sum(sizes[i + 1 :])), len(parts))
        tail = parts[start:]
        if len(tail) < 2:
            return
        joined = self._folder / f"part-{_first_number(tail[0]):06d}-{_last_number(tail[-1]):06d}.parquet"
        _write(joined, _row_groups(tail), self.covered)
        for part in tail:
            part.unlink()

    def _adopt(self) -> None:
        """Take an earlier agent's finished `timeline.parquet` as the first part."""
        for stale in [*self._folder.glob("*.tmp"), *self.path.parent.glob("timeline.parquet.tmp")]:
            stale.unlink()
        if self.path.exists() and not self._parts():
            self._folder.mkdir(mode=0o700, exist_ok=True)
            os.rename(self.path, self._folder / "part-000001.parquet")

    def _covered_on_disk(self) -> dict[int, Position]:
        parts = self._parts()
        if not parts:
            return {}
        metadata = pq.read_schema(parts[-1]).metadata or {}
        stored = json.loads(metadata.get(_POSITIONS, b"{}"))
        return {int(rank): (int(at[0]), int(at[1])) for rank, at in stored.items()}


def _first_number(part: Path) -> int:
    return int(part.stem.split("-")[1])


def _last_number(part: Path) -> int:
    return int(part.stem.split("-")[-1])


def _row_groups(parts: list[Path]) -> Iterator[pa.Table]:
    """Tables of about ROW_GROUP_ROWS rows, one in memory at a time."""
    waiting: list[pa.Table] = []
    for part in parts:
        with pq.ParquetFile(part) as file:
            for i in range(file.num_row_groups):
                waiting.append(file.read_row_group(i, use_threads=False).cast(SCHEMA))
                if sum(map(len, waiting)) >= ROW_GROUP_ROWS:
                    yield pa.concat_tables(waiting).unify_dictionaries()
                    waiting = []
    if waiting:
        yield pa.concat_tables(waiting).unify_dictionaries()


def _write(path: Path, tables: Iterator[pa.Table], positions: dict[int, Position]) -> None:
    tmp = path.with_name(path.name + ".tmp")
    schema = SCHEMA.with_metadata({_POSITIONS: json.dumps(positions).encode()})
    fd = os.open(tmp, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with (
            open(fd, "wb") as file,
            pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=["tensor"]) as writer,
        ):
            for table in tables:
                writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP_ROWS)
        os.rename(tmp, path)
    except BaseException:
        tmp.unlink(missing_ok=True)
        raise

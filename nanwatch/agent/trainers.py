"""The processes of a run: who lives, who said farewell, and how it all ended."""

from __future__ import annotations

import math
import socket
from dataclasses import dataclass

from nanwatch.agent.ending import decide, first_cause
from nanwatch.agent.heartbeat import Process
from nanwatch.agent.oom import OomCounter
from nanwatch.records import EndRecord, RunRecord
from nanwatch.sinks.sink import RunEnd


@dataclass
class _Watched:
    process: Process
    farewell: EndRecord | None = None
    gone_at_s: float = math.inf
    """Monotonic; infinite while it lives."""
    out_of_memory: bool = False

    @property
    def over(self) -> bool:
        detached = self.farewell is not None and self.farewell.reason == "detached"
        return detached or self.gone_at_s < math.inf


class Trainers:
    """The process that started the agent, and those of the other ranks on this host as their records come in."""

    def __init__(self, pid: int, start_time_unix_s: float) -> None:
        self._host = socket.gethostname()
        self._main_pid = pid
        self._oom = OomCounter(pid)
        self._watched = {pid: _Watched(Process(pid, start_time_unix_s, start_time_unix_s))}
        self._pid_of_rank: dict[int, int] = {}

    @property
    def any_alive(self) -> bool:
        return any(w.gone_at_s == math.inf for w in self._watched.values())

    @property
    def all_over(self) -> bool:
        """Whether every process is gone or has detached."""
        return all(w.over for w in self._watched.values())

    def run(self, record: RunRecord) -> None:
        """A rank says who it is, for the first time, after it had detached, or after its launcher started it again."""
        if record.host != self._host:
            return
        earlier = self._pid_of_rank.get(record.rank)
        if earlier is not None and earlier != record.pid:
            self._watched.pop(earlier).process.close()
            self._main_pid = record.pid if earlier == self._main_pid else self._main_pid
        self._pid_of_rank[record.rank] = record.pid
        if record.pid in self._watched:
            self._watched[record.pid].farewell = None
        else:
            self._watched[record.pid] = _Watched(Process(record.pid, -math.inf, record.time_unix_s))

    def farewell(self, record: EndRecord) -> None:
        """A rank says that it ends."""
        self._watched[self._pid_of_rank.get(record.rank, self._main_pid)].farewell = record

    def look(self, monotonic_s: float) -> None:
        """Note who is gone; call it about every second."""
        self._oom.sample(monotonic_s)
        for watched in self._watched.values():
            if watched.gone_at_s == math.inf and not watched.process.alive():
                watched.gone_at_s = monotonic_s
                watched.out_of_memory = self._oom.killed_recently(monotonic_s)

    def end(self) -> RunEnd:
        """How the run ended; for when all is over and the spool was read to its end."""
        in_order = sorted(self._watched.values(), key=lambda w: w.gone_at_s)
        return first_cause([_end_of(w) for w in in_order])

    def close(self) -> None:
        for watched in self._watched.values():
            watched.process.close()


def _end_of(watched: _Watched) -> RunEnd:
    patience_s = 1.0 if watched.gone_at_s < math.inf else 0.0
    exit_status = watched.process.exit_status(patience_s)
    return decide(watched.farewell, exit_status, out_of_memory=watched.out_of_memory)

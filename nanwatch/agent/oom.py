"""The kernel's count of processes killed for memory in the trainer's control group."""

from __future__ import annotations

from collections import deque
from pathlib import Path

RECENT_S = 15.0
"""A kill longer ago than this before the trainer's end was another process's, for example a DataLoader worker's."""


class OomCounter:
    """`oom_kill` of the control group that `pid` was in when this was made; version 2, else version 1."""

    def __init__(self, pid: int, root: Path = Path("/")) -> None:
        self._file = _find(pid, root)
        self._seen: deque[tuple[float, int]] = deque()

    def sample(self, monotonic_s: float) -> None:
        """Note the count; call it about every second."""
        count = self._read()
        if count is None:
            return
        self._seen.append((monotonic_s, count))
        # One older than the window stays: it is what the window is compared with.
        while len(self._seen) > 1 and self._seen[1][0] < monotonic_s - RECENT_S:
            self._seen.popleft()

    def killed_recently(self, monotonic_s: float) -> bool:
        """Whether the count grew in the last seconds. False where the kernel gives no count."""
        self.sample(monotonic_s)
        return bool(self._seen) and self._seen[-1][1] > self._seen[0][1]

    def _read(self) -> int | None:
        if self._file is None:
            return None
        try:
            lines = self._file.read_text().splitlines()
        except OSError:
            return None
        counts = [line.split()[1] for line in lines if line.startswith("oom_kill ")]
        return int(counts[0]) if counts else None


def _find(pid: int, root: Path) -> Path | None:
    try:
        groups = (root / f"proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    fs = root / "sys/fs/cgroup"
    candidates = []
    for line in groups:
        _, controllers, path = line.split(":", 2)
        inside = path.lstrip("/")
        if not controllers:
            candidates += [
                fs / inside / "memory.events",
                fs / "unified" / inside / "memory.events",
                fs / "memory.events",
            ]
        elif "memory" in controllers.split(","):
            v1 = fs / "memory"
            candidates += [v1 / inside / "memory.oom_control", v1 / "memory.oom_control"]
    return next((c for c in candidates if c.is_file()), None)

"""Room for a replay: it must never make the training run out of memory."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

MOST_IN_USE = 0.9
_CGROUP = Path("/sys/fs/cgroup")


def why_no_room(parameters: Iterable[torch.Tensor], *, extra_bytes: int = 0) -> str | None:
    """The reason why nothing may be run again now; None where memory is left. It needs `extra_bytes` at least."""
    in_use = _host_in_use(extra_bytes)
    if in_use > MOST_IN_USE:
        return f"{in_use:.0%} of the host's memory is in use: a replay could make the training run out of it"
    for device in {p.device for p in parameters if p.device.type == "cuda"}:
        free, total = torch.cuda.mem_get_info(device)
        # What torch has cached and not given out counts as free: the replay allocates from there.
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        share = 1 - (free - extra_bytes) / total
        if share > MOST_IN_USE:
            return f"{share:.0%} of the memory of {device} is in use: a replay could make the training run out of it"
    return None


def _host_in_use(extra_bytes: int) -> float:
    """Share of the memory that this process may use: the container's limit where there is one."""
    memory = psutil.virtual_memory()
    shares: list[float] = [1 - (memory.available - extra_bytes) / memory.total]
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit != "max":
            used = int((_CGROUP / "memory.current").read_text())
            # The page cache counts as used and is given back on demand.
            cached = next(
                (int(line.split()[1]) for line in (_CGROUP / "memory.stat").read_text().splitlines()
                 if line.startswith("inactive_file ")), 0,
            )  # fmt: skip
            shares.append((used - cached + extra_bytes) / int(limit))
    except (OSError, ValueError, IndexError):
        pass  # no cgroup, or another version of it: the host's numbers have to do
    return float(max(shares))

"""What psutil says of the trainer, the host and the agent itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import psutil

from nanwatch.records import VitalsRecord

_MB = 1e6


class Vitals:
    """Reads the values of a VitalsRecord. CPU shares are over the time since the last reading."""

    def __init__(self, pid: int, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._agent = psutil.Process()
        self._trainer = _process(pid)
        # psutil's first reading of a CPU share has nothing to compare with: it is spent here.
        self._cpu()

    def read(self, time_unix_s: float) -> VitalsRecord:
        """The values now; what cannot be known is absent."""
        values = self._cpu()
        for name, reading in self._readings().items():
            value = _or_none(reading)
            if value is not None:
                values[name] = float(value)
        return VitalsRecord(time_unix_s, values)

    def _readings(self) -> dict[str, Callable[[], float]]:
        readings: dict[str, Callable[[], float]] = {
            "host_memory_percent": lambda: psutil.virtual_memory().percent,
            "host_memory_available_mb": lambda: psutil.virtual_memory().available / _MB,
            "disk_free_mb": lambda: shutil.disk_usage(self._run_dir).free / _MB,
            "agent_rss_mb": lambda: self._agent.memory_info().rss / _MB,
        }
        trainer = self._trainer
        if trainer is not None:
            readings |= {
                "trainer_rss_mb": lambda: trainer.memory_info().rss / _MB,
                "trainer_threads": trainer.num_threads,
                "trainer_fds": trainer.num_fds,
            }
        return readings

    def _cpu(self) -> dict[str, float]:
        sources = {"host_cpu_percent": lambda: psutil.cpu_percent(None), "agent_cpu_percent": self._agent.cpu_percent}
        if self._trainer is not None:
            sources["trainer_cpu_percent"] = self._trainer.cpu_percent
        read = {name: _or_none(source) for name, source in sources.items()}
        return {name: float(value) for name, value in read.items() if value is not None}


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.Error:
        return None


def _or_none(reading: Callable[[], float]) -> float | None:
    """The value, or None where the process is gone, is a zombie, or the system does not tell."""
    try:
        return reading()
    except (psutil.Error, OSError, NotImplementedError):
        return None

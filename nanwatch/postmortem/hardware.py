"""What the hardware says of itself: counters of memory errors, and temperatures. Evidence, never a verdict."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

EDAC = Path("/sys/devices/system/edac/mc")
ASK_TIMEOUT_S = 5.0
_QUERY = "index,ecc.errors.corrected.volatile.total,ecc.errors.uncorrected.volatile.total,temperature.gpu"


def describe_hardware(*, ask_devices: bool, edac: Path = EDAC, program: str = "nvidia-smi") -> dict[str, Any]:
    """Errors of the host's memory since it was started, by controller; with `ask_devices` those of NVIDIA devices.

    None stands for what cannot be read: `devices` where nobody was asked or there is nobody to ask, a number where a
    device does not count.
    """
    return {
        "memory": [_controller(folder) for folder in sorted(edac.glob("mc[0-9]*"))],
        "devices": _devices(program) if ask_devices else None,
    }


def counted_errors(hardware: Mapping[str, Any]) -> int:
    """Memory errors, corrected or not, of the host and its devices together; what cannot be read counts as none."""
    counters = [*hardware["memory"], *(hardware["devices"] or ())]
    return sum((c["corrected"] or 0) + (c["uncorrected"] or 0) for c in counters)


def _controller(folder: Path) -> dict[str, Any]:
    return {
        "controller": folder.name,
        "corrected": _count(folder / "ce_count"),
        "uncorrected": _count(folder / "ue_count"),
    }


def _count(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _devices(program: str) -> list[dict[str, int | None]] | None:
    path = shutil.which(program)
    if path is None:
        return None
    try:
        asked = subprocess.run(
            [path, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    names = ("index", "corrected", "uncorrected", "temperature_c")
    lines = [[_number(v) for v in line.split(",")] for line in asked.stdout.splitlines()]
    return [dict(zip(names, line, strict=True)) for line in lines if len(line) == len(names)]


def _number(text: str) -> int | None:
    """`[N/A]` where ECC is off."""
    try:
        return int(text)
    except ValueError:
        return None

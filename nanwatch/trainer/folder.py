"""The run's folder: one for all attach calls of a process and all ranks of a launch on a host."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nanwatch.errors import SetupError

_LAUNCHERS = (("TORCHELASTIC_RUN_ID",), ("SLURM_JOB_ID", "SLURM_STEP_ID"))
_NO_ID = {"", "none"}


@dataclass(frozen=True)
class Place:
    """One process among the processes of its launch, as known at attach.

    Where the process group comes later and no launcher tells the rank, the process is alone: rank 0 of 1 in a folder of
    its own. Its incidents still say the rank that it has then.
    """

    rank: int
    local_rank: int
    world_size: int
    launch: str | None
    """What the processes of the launch have in common and nobody else has; None for a process on its own."""

    @property
    def starts_agent(self) -> bool:
        """One agent a folder: the first process of a launch on its host, or one that shares its folder with none."""
        return self.local_rank == 0 or self.launch is None


def place_of(
    environ: Mapping[str, str],
    group: tuple[int, int] | None = None,
    agree: Callable[[], str | None] = lambda: None,
) -> Place:
    """What the process group says (`group`: rank and size), else torchrun, Slurm and the like in the environment.

    `agree`: an id that the ranks of the group settle among themselves, asked for where nothing else names the launch.
    """
    rank, world = group or (_number(environ, "RANK", 0), _number(environ, "WORLD_SIZE", 1))
    local = _number(environ, "LOCAL_RANK", rank)
    if world == 1:
        return Place(rank, local, world, None)
    named = (".".join(environ[k] for k in keys if environ.get(k)) for keys in _LAUNCHERS)
    launch = next((name for name in named if name.lower() not in _NO_ID), None)
    if launch is None and environ.get("MASTER_PORT"):
        # torchrun's default id is "none": the rendezvous is what the ranks of one launch share.
        launch = f"{environ.get('MASTER_ADDR', 'localhost')}-{environ['MASTER_PORT']}-{os.getppid()}"
    return Place(rank, local, world, launch or (agree() if group is not None else None))


def run_name(place: Place, now: datetime) -> str:
    """UTC time and six hex digits; the launcher's id where the ranks have to agree on one name."""
    if place.launch is not None:
        return re.sub(r"[^A-Za-z0-9_.-]", "-", f"launch-{place.launch}")[:100]
    return unique(now)


def unique(now: datetime) -> str:
    """UTC time and six hex digits."""
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def make_folder(wanted: Path, name: str, warn: Callable[[str], None]) -> Path:
    """Create `wanted/name`, private; where the disk refuses, below the user's state folder, then the temporary one.

    Raises: SetupError when no place can be written.
    """
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    places = [wanted.absolute(), state / "nanwatch", Path(tempfile.gettempdir()) / f"nanwatch-{os.getuid()}"]
    reasons = []
    for base in places:
        folder = base / name
        try:
            os.makedirs(folder / "incidents", mode=0o700, exist_ok=True)
            os.chmod(folder, 0o700)
            _try_to_write(folder)
        except OSError as e:
            reasons.append(f"{base}: {e.strerror or e}")
            continue
        if reasons:
            warn(f"cannot write to {reasons[0]}; the run's files go to {folder} (set dir= or NANWATCH_DIR)")
        return folder
    raise SetupError(f"nanwatch finds no folder to write to ({'; '.join(reasons)}): set dir= or NANWATCH_DIR")


def claim(path: Path) -> bool:
    """Create an empty file, which only one of several processes manages to do."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except OSError:
        return False
    return True


def _try_to_write(folder: Path) -> None:
    probe = folder / f".write-test-{os.getpid()}"
    fd = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.close(fd)
    os.unlink(probe)


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    value = environ.get(name, "")
    return int(value) if value.isdigit() else default

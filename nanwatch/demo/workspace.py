"""The folder in which the demo works: the script, the MLflow store and the runs, and nothing of anybody else."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from nanwatch.errors import SetupError

SCRIPT = "train_digits.py"
_MARK = ".nanwatch-demo"
_PLANTED = "scores.softmax(dim=-1)"


@dataclass(frozen=True)
class Workspace:
    """A folder that belongs to the demo."""

    folder: Path

    @property
    def script(self) -> Path:
        return self.folder / SCRIPT

    @property
    def store(self) -> Path:
        """MLflow's own default for a program that runs in `folder`."""
        return self.folder / "mlflow.db"

    @property
    def store_uri(self) -> str:
        return f"sqlite:///{self.store}"

    @property
    def planted_line(self) -> int:
        """Line of the script that makes the NaN, 1-based."""
        lines = self.script.read_text(encoding="utf-8").splitlines()
        return 1 + next(i for i, line in enumerate(lines) if _PLANTED in line)

    def runs(self) -> set[Path]:
        """Folders of the runs so far."""
        return {p for p in (self.folder / "nanwatch_runs").glob("*") if p.is_dir()}


def prepare(folder: Path) -> Workspace:
    """Make `folder` the demo's, or use it again; the script in it is the one of this version.

    Raises: SetupError for a folder that holds something else, a script that was edited, or a disk that refuses.
    """
    workspace = Workspace(folder.absolute())
    script = files("nanwatch.demo").joinpath(SCRIPT).read_text(encoding="utf-8")
    try:
        os.makedirs(workspace.folder, exist_ok=True)
        if any(workspace.folder.iterdir()) and not (workspace.folder / _MARK).exists():
            raise SetupError(f"{folder} holds other things; name an empty folder with --dir")
        (workspace.folder / _MARK).touch()
        if workspace.script.exists() and workspace.script.read_text(encoding="utf-8") != script:
            raise SetupError(f"{workspace.script} is not the demo's script any more; rename it, or name another --dir")
        workspace.script.write_text(script, encoding="utf-8")
    except OSError as e:
        raise SetupError(f"{folder} cannot be the demo's folder: {e.strerror or e}; name another one with --dir") from e
    return workspace

"""Runs the demo's script as a user would: a process of its own, in its folder, with nothing set but the webhook."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

from nanwatch.demo.workspace import Workspace

TIMEOUT_S = 180.0
_OURS = ("NANWATCH_", "MLFLOW_")


def train(workspace: Workspace, variables: Mapping[str, str], say: Callable[[str], None]) -> int:
    """Train to the end and pass on each line that the script prints; returns its exit code.

    A training that takes longer than TIMEOUT_S is killed.
    """
    process = subprocess.Popen(
        [sys.executable, "-u", workspace.script.name],
        cwd=workspace.folder,
        env=_environment(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    watchdog = threading.Timer(TIMEOUT_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout or ():
            say(line.rstrip("\n"))
        return process.wait()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What surrounds the demo must not decide where it logs to."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    # Tensors this small are slower with several threads than with one.
    return {"OMP_NUM_THREADS": "1", **inherited, **variables}

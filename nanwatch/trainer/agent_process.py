"""Starting the agent, never waiting for it, and reading how far it has come."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

POLL_S = 0.01

_started: list[AgentProcess] = []


class AgentProcess(subprocess.Popen[bytes]):
    """The agent as a child. It outlives the trainer on purpose, so being collected while it runs is no mistake."""

    def __del__(self) -> None:
        """Popen would warn of a child that still runs."""


def start_agent(run_dir: Path, environ: Mapping[str, str], secrets: Mapping[str, str]) -> AgentProcess:
    """Start `python -m nanwatch.agent` for a run's folder; what is secret travels in its environment alone.

    Raises: OSError when no process can be started.
    """
    # Those of earlier runs that have ended are let go; a child that nobody asks after stays in the process table.
    _started[:] = [agent for agent in _started if agent.poll() is None]
    package_home = str(Path(__file__).resolve().parents[2])
    path = environ.get("PYTHONPATH", "")
    env = {**environ, **secrets, "PYTHONPATH": f"{path}{os.pathsep}{package_home}" if path else package_home}
    # The agent works beside the training: no threads of numeric libraries, lower priority.
    env.update({"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})
    me = psutil.Process()
    command = [
        # -P: a rules.py or mlflow.py in the user's folder must not be taken for a library's.
        sys.executable, "-P", "-m", "nanwatch.agent", str(run_dir),
        "--pid", str(me.pid), "--start-time", repr(me.create_time()),
    ]  # fmt: skip
    log = os.open(run_dir / "agent.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        agent = AgentProcess(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, close_fds=True
        )
    finally:
        os.close(log)
    _started.append(agent)
    return agent


def wait_for_ack(
    run_dir: Path, rank: int, position: tuple[int, int], timeout_s: float, alive: Callable[[], bool]
) -> bool:
    """Wait until the agent has taken in everything up to `position`; False after `timeout_s` or when it is gone."""
    deadline = time.monotonic() + timeout_s
    while True:
        if acknowledged(run_dir, rank) >= position:
            return True
        if time.monotonic() >= deadline or not alive():
            return acknowledged(run_dir, rank) >= position
        time.sleep(POLL_S)


def acknowledged(run_dir: Path, rank: int) -> tuple[int, int]:
    """Segment and offset up to which the agent has taken in a rank's records; (0, 0) before its first word."""
    try:
        content = json.loads((run_dir / "ack.json").read_text())
        segment, offset = content["ranks"][str(rank)]
        return int(segment), int(offset)
    except (OSError, ValueError, KeyError, TypeError):
        return 0, 0

import math
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from nanwatch.agent import heartbeat
from nanwatch.agent.heartbeat import ExitStatus, Process

SLEEP = "import time; time.sleep(30)"


@pytest.fixture
def spawn():
    """Starts a program as a child of ours; nobody collects it before the test does."""
    started = []

    def start(program):
        process = subprocess.Popen([sys.executable, "-c", program])
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def follow(child):
    at = psutil.Process(child.pid).create_time()
    return Process(child.pid, at, at)


def gone(process):
    until = time.monotonic() + 20
    while process.alive():
        assert time.monotonic() < until
        time.sleep(0.01)


def no_pidfd_info(monkeypatch):
    def refuse(*_):
        raise OSError(heartbeat.errno.ENOTTY, "Inappropriate ioctl for device")

    monkeypatch.setattr(heartbeat.fcntl, "ioctl", refuse)


@pytest.mark.parametrize("kernel", ["with PIDFD_GET_INFO", "without"])
@pytest.mark.parametrize("collected", [True, False])
def test_a_killed_process_is_noticed_and_its_signal_is_told(spawn, monkeypatch, kernel, collected):
    if kernel == "without":
        no_pidfd_info(monkeypatch)
    child = spawn(SLEEP)
    process = follow(child)
    assert process.alive()
    child.kill()
    if not collected:
        gone(process)
        assert process.exit_status() == ExitStatus(signal=signal.SIGKILL)
    child.wait()
    gone(process)
    if collected and kernel == "without":
        assert process.exit_status(patience_s=0.0) == ExitStatus()
    else:
        assert process.exit_status() == ExitStatus(signal=signal.SIGKILL)
    process.close()
    process.close()
    assert not process.alive()


@pytest.mark.parametrize("code", [0, 3, 255])
def test_an_exit_code_is_told(spawn, code):
    child = spawn(f"import sys; sys.stdin.close(); sys.exit({code})")
    process = follow(child)
    gone(process)
    assert process.exit_status() == ExitStatus(code=code)


def test_a_worker_that_outlives_the_trainer_hides_nothing(spawn):
    child = spawn("import os, time; os.fork() or time.sleep(1.5); time.sleep(0.2)")
    process = follow(child)
    child.wait()
    assert not process.alive()


def test_a_process_that_started_at_another_time_is_not_ours(spawn):
    child = spawn(SLEEP)
    at = psutil.Process(child.pid).create_time()
    assert not Process(child.pid, at - 3600, at - 3000).alive()
    assert Process(child.pid, -math.inf, at).alive()


def test_a_pid_that_nobody_has_is_gone_with_an_unknown_end():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    process = Process(child.pid, 0.0, time.time())
    assert not process.alive()
    assert not process.exit_status().known
    assert os.getpid() != child.pid

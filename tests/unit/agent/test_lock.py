import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from nanwatch.agent.lock import FOREIGN_STALE_S, AgentLock


@pytest.fixture
def other():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait()


def held_by(lock, process, **changes):
    content = {"pid": process.pid, "start_time": psutil.Process(process.pid).create_time(), "host": lock._me["host"]}
    lock.path.write_text(json.dumps({**content, **changes}))


def test_free_then_held_then_free(tmp_path):
    lock = AgentLock(tmp_path)
    assert lock.acquire()
    assert json.loads(lock.path.read_text())["pid"] == os.getpid()
    assert not AgentLock(tmp_path).acquire()
    lock.release()
    assert not lock.path.exists()
    assert AgentLock(tmp_path).acquire()


def test_a_live_holder_keeps_it_and_a_dead_one_does_not(tmp_path, other):
    lock = AgentLock(tmp_path)
    held_by(lock, other)
    assert not lock.acquire()
    lock.release()
    assert lock.path.exists()
    other.kill()
    other.wait()
    assert lock.acquire()
    assert [p.name for p in tmp_path.iterdir()] == ["agent.lock"]


def test_a_later_process_with_the_same_pid_is_not_the_holder(tmp_path, other):
    lock = AgentLock(tmp_path)
    held_by(lock, other, start_time=1.0)
    assert lock.acquire()


def test_a_holder_on_another_host_is_known_by_the_age_of_the_file(tmp_path, other):
    lock = AgentLock(tmp_path)
    held_by(lock, other, host="elsewhere")
    assert not lock.acquire()
    old = time.time() - 2 * FOREIGN_STALE_S
    os.utime(lock.path, (old, old))
    assert lock.acquire()
    os.utime(lock.path, (old, old))
    lock.touch()
    assert time.time() - lock.path.stat().st_mtime < FOREIGN_STALE_S


@pytest.mark.parametrize("content", ["", "[]", "{"])
def test_an_empty_lock_is_young_or_stale(tmp_path, content):
    lock = AgentLock(tmp_path)
    lock.path.write_text(content)
    assert not lock.acquire()
    os.utime(lock.path, (1.0, 1.0))
    assert lock.acquire()


def test_the_next_agent_can_see_that_the_holder_is_ending(tmp_path):
    lock = AgentLock(tmp_path)
    lock.acquire()
    assert not AgentLock(tmp_path).holder_is_ending()
    lock.mark_ending()
    assert AgentLock(tmp_path).holder_is_ending()
    lock.mark_serving()
    assert not AgentLock(tmp_path).holder_is_ending()
    assert not AgentLock(tmp_path).acquire()

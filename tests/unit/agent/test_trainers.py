import os
import socket
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from nanwatch.agent.trainers import Trainers
from nanwatch.records import EndRecord, RunRecord


@pytest.fixture
def spawn():
    started = []

    def start():
        process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def made(process):
    return Trainers(process.pid, psutil.Process(process.pid).create_time())


def hello(process, rank=0):
    return RunRecord("run", rank, 2, process.pid, socket.gethostname(), time.time(), (), {}, "a.py", {})


def stop(process):
    process.kill()
    process.wait()


def said(rank, reason):
    return EndRecord(rank, reason, "", 0.0)


def test_it_is_over_when_every_rank_is_gone_and_the_first_cause_is_told(spawn):
    main, other = spawn(), spawn()
    trainers = made(main)
    trainers.run(hello(main))
    trainers.run(hello(other, 1))
    stop(main)
    trainers.look(1.0)
    assert not trainers.all_over
    assert trainers.any_alive
    trainers.farewell(said(1, "exception"))
    stop(other)
    trainers.look(2.0)
    assert trainers.all_over
    assert not trainers.any_alive
    assert trainers.end().reason == "exception"
    trainers.close()


def test_a_rank_that_detached_is_over_and_is_not_when_it_attaches_again(spawn):
    main = spawn()
    trainers = made(main)
    trainers.run(hello(main))
    trainers.farewell(said(0, "detached"))
    trainers.look(1.0)
    assert trainers.all_over
    assert trainers.any_alive
    assert trainers.end().status == "FINISHED"
    trainers.run(hello(main))
    assert not trainers.all_over


def test_an_earlier_process_of_a_rank_does_not_count_once_its_launcher_started_it_again(spawn):
    main, before = spawn(), spawn()
    trainers = made(main)
    record = hello(before)
    stop(before)
    trainers.run(record)
    trainers.look(1.0)
    trainers.run(hello(main))
    trainers.farewell(said(0, "finished"))
    stop(main)
    trainers.look(2.0)
    assert trainers.end().reason == "killed"


def test_a_launcher_that_starts_a_rank_again_replaces_the_process_that_started_the_agent(spawn):
    main, again = spawn(), spawn()
    trainers = made(main)
    trainers.run(hello(main))
    stop(main)
    trainers.look(1.0)
    trainers.run(hello(again))
    assert not trainers.all_over
    trainers.farewell(said(0, "detached"))
    trainers.farewell(said(5, "detached"))
    assert trainers.all_over
    assert trainers.end().reason == "detached"


def test_a_process_of_another_host_is_not_looked_for_here(spawn):
    main = spawn()
    trainers = made(main)
    trainers.run(replace(hello(main, 1), host="elsewhere", pid=os.getpid()))
    stop(main)
    trainers.look(1.0)
    assert trainers.all_over


def test_a_farewell_without_a_record_of_its_rank_is_the_main_process_s(spawn):
    main = spawn()
    trainers = made(main)
    trainers.farewell(said(0, "detached"))
    assert trainers.all_over

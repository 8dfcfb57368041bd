import signal

import pytest

from nanwatch.agent.ending import decide, first_cause
from nanwatch.agent.heartbeat import ExitStatus
from nanwatch.records import EndRecord
from nanwatch.sinks.sink import RunEnd


def said(reason):
    return EndRecord(0, reason, "detail", 0.0)


def by(number):
    return ExitStatus(signal=number)


UNKNOWN = ExitStatus()


@pytest.mark.parametrize(
    ("farewell", "exit_status", "oom", "reason", "status"),
    [
        (said("finished"), ExitStatus(code=0), False, "finished", "FINISHED"),
        (said("finished"), UNKNOWN, False, "finished", "FINISHED"),
        (said("finished"), ExitStatus(code=3), False, "exception", "FAILED"),
        (said("finished"), by(signal.SIGSEGV), False, "exception", "FAILED"),
        (said("finished"), by(signal.SIGKILL), False, "killed", "KILLED"),
        (said("exception"), ExitStatus(code=1), False, "exception", "FAILED"),
        (said("exception"), UNKNOWN, True, "exception", "FAILED"),
        (said("stopped"), ExitStatus(code=1), False, "stopped", "FAILED"),
        (said("detached"), UNKNOWN, False, "detached", "FINISHED"),
        (said("signal"), UNKNOWN, False, "killed", "KILLED"),
        (said("signal"), by(signal.SIGTERM), False, "killed", "KILLED"),
        (None, by(signal.SIGKILL), False, "killed", "KILLED"),
        (None, by(signal.SIGTERM), True, "killed", "KILLED"),
        (None, by(signal.SIGINT), False, "killed", "KILLED"),
        (None, by(signal.SIGKILL), True, "out_of_memory", "FAILED"),
        (None, by(signal.SIGABRT), False, "exception", "FAILED"),
        (None, ExitStatus(code=1), False, "exception", "FAILED"),
        (None, ExitStatus(code=0), False, "finished", "FINISHED"),
        (None, UNKNOWN, True, "out_of_memory", "FAILED"),
        (None, UNKNOWN, False, "vanished", "FAILED"),
    ],
)
def test_farewell_and_kernel_give_the_end(farewell, exit_status, oom, reason, status):
    end = decide(farewell, exit_status, out_of_memory=oom)
    assert (end.reason, end.status) == (reason, status)


def test_the_sentence_where_nobody_can_tell():
    assert decide(None, UNKNOWN, out_of_memory=False).detail == "vanished, cause unknown"


def test_the_kernel_s_words():
    assert str(by(signal.SIGKILL)) == "killed by SIGKILL"
    assert str(by(40)) == "killed by signal 40"
    assert str(ExitStatus(code=3)) == "exit code 3"


def test_of_several_processes_the_first_that_tells_a_cause_counts():
    finished = RunEnd("finished", "", "FINISHED")
    killed, failed = RunEnd("killed", "", "KILLED"), RunEnd("exception", "", "FAILED")
    assert first_cause([finished, finished]) is finished
    assert first_cause([killed, failed, finished]) is failed
    assert first_cause([finished, killed]) is killed

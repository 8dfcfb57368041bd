"""From a farewell, an exit status and the kernel's counters to one sentence on how the trainer ended."""

from __future__ import annotations

import signal
from collections.abc import Sequence

from nanwatch.agent.heartbeat import ExitStatus
from nanwatch.records import EndRecord
from nanwatch.sinks.sink import RunEnd

_KILLS = {signal.SIGTERM, signal.SIGKILL, signal.SIGINT}
_STATUS = {"finished": "FINISHED", "exception": "FAILED", "stopped": "FAILED", "detached": "FINISHED"}


def decide(farewell: EndRecord | None, exit_status: ExitStatus, *, out_of_memory: bool) -> RunEnd:
    """How one process ended. What the kernel says wins over a farewell that said that all was well."""
    if farewell is not None and farewell.reason in {"exception", "stopped", "detached"}:
        return RunEnd(farewell.reason, farewell.detail, _STATUS[farewell.reason])
    if exit_status.signal is not None:
        return _by_signal(exit_status, farewell, out_of_memory=out_of_memory)
    if farewell is not None and farewell.reason == "signal":
        return RunEnd("killed", farewell.detail or "killed by a signal", "KILLED")
    if exit_status.code:
        return RunEnd("exception", f"the program ended with {exit_status}", "FAILED")
    if farewell is not None or exit_status.code == 0:
        return RunEnd("finished", "" if farewell is None else farewell.detail, "FINISHED")
    if out_of_memory:
        return _OUT_OF_MEMORY
    return RunEnd("vanished", "vanished, cause unknown", "FAILED")


def first_cause(ends: Sequence[RunEnd]) -> RunEnd:
    """How the run ended, from its processes in the order in which they ended: the first that did not end well.

    A process killed at last is often the launcher's answer to another one's exception, so exceptions go first.
    """
    bad = [end for end in ends if end.status != "FINISHED"]
    told = [end for end in bad if end.reason in {"exception", "stopped", "out_of_memory"}]
    return (told or bad or list(ends))[0]


_OUT_OF_MEMORY = RunEnd(
    "out_of_memory", "the kernel killed a process of this control group because memory was used up", "FAILED"
)


def _by_signal(exit_status: ExitStatus, farewell: EndRecord | None, *, out_of_memory: bool) -> RunEnd:
    detail = str(exit_status) if farewell is None else f"{exit_status}, after it had said that it was {farewell.reason}"
    if exit_status.signal == signal.SIGKILL and out_of_memory:
        return _OUT_OF_MEMORY
    if exit_status.signal in _KILLS:
        return RunEnd("killed", detail, "KILLED")
    return RunEnd("exception", detail, "FAILED")

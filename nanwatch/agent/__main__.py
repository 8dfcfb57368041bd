"""`python -P -m nanwatch.agent RUN_DIR --pid PID --start-time SECONDS`: how the trainer starts its agent.

SIGTERM asks it to end soon, SIGUSR1 to write `timeline.parquet` in the middle of the run.
Exit codes: 0 it came to its end, 3 it could not serve this folder.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

log = logging.getLogger("nanwatch.agent")

NICENESS = 5
"""Where the training needs all cores, the training gets them."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve one run's folder until its trainer is gone and everything is shipped."""
    args = _parse(argv)
    os.umask(0o077)
    os.nice(NICENESS)
    for variable in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        os.environ.setdefault(variable, "true")

    from nanwatch.agent.agent_log import open_log
    from nanwatch.agent.supervisor import Supervisor
    from nanwatch.errors import NanwatchError

    open_log(args.run_dir)
    log.info("agent %d follows trainer %d in %s", os.getpid(), args.pid, args.run_dir)
    try:
        supervisor = Supervisor(args.run_dir, args.pid, args.start_time, os.environ)

        def terminate(_signal: int, _frame: FrameType | None) -> None:
            supervisor.terminate()

        def merge(_signal: int, _frame: FrameType | None) -> None:
            supervisor.merge_timeline()

        signal.signal(signal.SIGTERM, terminate)
        signal.signal(signal.SIGUSR1, merge)
        served = supervisor.run()
    except NanwatchError as e:
        log.critical("%s", e)
        return 3
    except Exception:
        log.exception("the agent failed")
        return 3
    log.info("agent %d ends", os.getpid())
    return 0 if served else 3


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nanwatch.agent", description=main.__doc__)
    parser.add_argument("run_dir", type=lambda text: Path(text).resolve(), help="folder of the run")
    parser.add_argument("--pid", type=int, required=True, help="process id of the trainer")
    parser.add_argument("--start-time", type=float, required=True, help="when it started, as psutil's create_time")
    return parser.parse_args(argv)


if __name__ == "__main__":
    # A Ctrl-C in the terminal is meant for the trainer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    code = main()
    logging.shutdown()
    # Not sys.exit: that would wait for a sink's thread, or an executor of its library, that hangs on a dead server.
    os._exit(code)

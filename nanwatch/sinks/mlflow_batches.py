"""Points on their way to MLflow: tall batches, resent as they were after a failure, bisected after a refusal."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from nanwatch.errors import SinkError
from nanwatch.sinks.mlflow_connection import Connection, RefusedError
from nanwatch.sinks.mlflow_windows import Point

QUEUE_POINTS = 200_000
"""More than a run of a week makes; beyond it the oldest are dropped and counted."""
CALLS_AT_ONCE = 10
"""Batches in one shipping while training goes on: the user's own calls get their turn at the database in between."""


class Outgoing:
    """The queue. `sent` counts points, `dropped` those lost, by reason."""

    def __init__(self) -> None:
        self.sent = 0
        self.dropped: dict[str, int] = {}
        self._queue: deque[Point] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, points: Iterable[Point]) -> None:
        self._queue.extend(points)
        overfull = max(len(self._queue) - QUEUE_POINTS, 0)
        for _ in range(overfull):
            self._queue.popleft()
        self._drop("metric_queue_full", overfull)

    def send(self, connection: Connection, run_id: str, *, everything: bool) -> None:
        """Send what is due. A batch leaves the queue only when it was taken.

        Raises: SinkError; what was not sent stays.
        """
        calls = 0
        while self._queue and (everything or calls < CALLS_AT_ONCE):
            batch = list(islice(self._queue, connection.batch_size))
            refused = send_metrics(connection, run_id, batch)
            for _ in batch:
                self._queue.popleft()
            self.sent += len(batch) - refused
            self._drop("metric_refused", refused)
            calls += 1

    def _drop(self, reason: str, count: int) -> None:
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count


def send_metrics(connection: Connection, run_id: str, points: Sequence[Point]) -> int:
    """Log `points` in as many calls as needed; returns how many single ones MLflow refused.

    Raises: SinkError when nothing of a large batch is accepted, or the other side cannot be reached.
    """
    size = connection.batch_size
    return sum(_send(connection, run_id, points[at : at + size]) for at in range(0, len(points), size))


def _send(connection: Connection, run_id: str, points: Sequence[Point]) -> int:
    from mlflow.entities import Metric

    metrics = [Metric(p.key, p.value, p.timestamp_ms, p.step) for p in points]
    try:
        with connection.errors():
            connection.client.log_batch(run_id, metrics=metrics)
    except RefusedError as e:
        if len(points) == 1:
            return 1
        middle = len(points) // 2
        refused = sum(_send(connection, run_id, half) for half in (points[:middle], points[middle:]))
        if refused == len(points) > 8:
            # Not the points are wrong but something else: losing all of them in silence would be worse than stopping.
            raise SinkError(str(e), permanent=True) from e
        return refused
    return 0

"""When to try again after a failure."""

from __future__ import annotations

from collections.abc import Callable

from nanwatch.errors import SinkError

BASE_S = 1.0
CAP_S = 60.0
RETRY_AFTER_CAP_S = 600.0


class Backoff:
    """Exponential with full jitter; a longer wait that the other side asks for is honoured, up to ten minutes.

    Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    def __init__(self, uniform: Callable[[float, float], float]) -> None:
        self.failures = 0
        self._uniform = uniform

    def reset(self) -> None:
        self.failures = 0

    def delay_s(self, error: Exception) -> float:
        """Seconds to wait after one more failure."""
        self.failures += 1
        jitter = self._uniform(0.0, min(CAP_S, BASE_S * 2.0 ** min(self.failures - 1, 10)))
        asked = error.retry_after_s if isinstance(error, SinkError) else None
        return max(jitter, min(asked or 0.0, RETRY_AFTER_CAP_S))

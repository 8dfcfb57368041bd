"""The one door to MLflow: a client that never blocks for long, and what its refusals mean.

mlflow is imported here and nowhere earlier than at the first connection: it costs seconds and 150 MiB.
"""

from __future__ import annotations

import email.utils
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from nanwatch.errors import SinkError

SQLITE_BATCH = 200
"""Metrics in one call to a database file: a larger one keeps the user's own calls waiting for the lock."""
DEFAULT_BATCH = 1000

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # The agent's own schedule retries. MLflow's default blocks a call for minutes, and repeats a create-run whose
    # answer was lost, which leaves two runs.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_TIMEOUT_S = "30"
_LONGEST_RETRY_AFTER_S = 600.0
_RETRYABLE = {408, 425, 429}
_DELETED = "must be in the 'active' state"


class RefusedError(SinkError):
    """The other side understood the request and will not have it (HTTP 400): something in it is wrong."""

    def __init__(self, message: str) -> None:
        super().__init__(message, permanent=True)


class Connection:
    """A client of the store at `uri`; `client` is MLflow's own, used only inside `errors()`."""

    def __init__(self, uri: str) -> None:
        _prepare_environment()
        from mlflow import MlflowClient

        self.uri = uri
        self.is_http = uri.startswith(("http://", "https://"))
        self.batch_size = SQLITE_BATCH if uri.startswith("sqlite") else DEFAULT_BATCH
        with self.errors():
            self.client: Any = MlflowClient(tracking_uri=uri)

    @property
    def shown_uri(self) -> str:
        return without_credentials(self.uri)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Whatever MLflow raises inside leaves as a SinkError that says what to do and when to try again."""
        try:
            yield
        except SinkError:
            raise
        except Exception as e:
            raise self._sink_error(e) from e

    def _sink_error(self, error: Exception) -> SinkError:
        text = without_credentials(str(error))[:500]
        status = status_of(error)
        if _DELETED in text:
            return SinkError(f"MLflow: the run or its experiment was deleted ({text})", permanent=True)
        if status == 400:
            return RefusedError(f"MLflow refused the request: {text}")
        if status is not None and status in {401, 403, 404}:
            return SinkError(f"{_advice(status, self.shown_uri, text)} ({text})", permanent=True)
        retry_after_s = _retry_after_s(error)
        if retry_after_s is None and status in {429, 503} and self.is_http:
            retry_after_s = self._asked_wait_s()
        permanent = isinstance(error, ImportError)
        permanent |= status is not None and 400 <= status < 500 and status not in _RETRYABLE
        return SinkError(f"MLflow at {self.shown_uri}: {text}", permanent=permanent, retry_after_s=retry_after_s)

    def _asked_wait_s(self) -> float | None:
        """The Retry-After of a busy server; MLflow's client throws that header away, so it is asked for once more."""
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        try:
            answer = http_request(
                get_default_host_creds(self.uri),
                "/api/2.0/mlflow/experiments/get",
                "GET",
                raise_on_status=False,
                timeout=5,
                params={"experiment_id": "0"},
            )
        except Exception:  # it is the wait that is asked for; the failure itself is reported already
            return None
        return seconds_to_wait(answer.headers.get("Retry-After"))


def default_uri() -> str:
    """MLflow's own choice for this working directory and environment, as an absolute URI."""
    _prepare_environment()
    import mlflow

    return str(mlflow.get_tracking_uri())


def without_credentials(text: str) -> str:
    """`text` without the user:password@ of any URL in it."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind what MLflow raised, where there is one; a database has them too."""
    response = getattr(error, "response", None)
    if response is not None:
        return int(response.status_code)
    exhausted = re.search(r"too many (\d{3}) error responses", str(error))
    if exhausted:
        return int(exhausted.group(1))
    status = getattr(error, "get_http_status_code", None)
    return int(status()) if callable(status) else None


def seconds_to_wait(header: str | None) -> float | None:
    """What a Retry-After header asks for, at most ten minutes; it holds seconds or a date."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), _LONGEST_RETRY_AFTER_S)


def _retry_after_s(error: BaseException) -> float | None:
    response = getattr(error, "response", None)
    return None if response is None else seconds_to_wait(response.headers.get("Retry-After"))


def _prepare_environment() -> None:
    os.environ.update(_ENVIRONMENT)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _TIMEOUT_S)


def _advice(status: int, uri: str, text: str) -> str:
    if status == 401:
        return (
            f"MLflow at {uri} wants a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            "MLFLOW_TRACKING_TOKEN"
        )
    if status == 404:
        return f"MLflow at {uri} does not know this: is it the server that the run was started on"
    if "Host header" in text:
        host = re.sub(r"^\w+://", "", uri).split("/")[0]
        return f"MLflow at {uri} does not accept its own name; start the server with --allowed-hosts {host}"
    return f"MLflow at {uri} forbids this: the user behind MLFLOW_TRACKING_USERNAME or _TOKEN may not write there"

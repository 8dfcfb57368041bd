"""One POST with a hard deadline, no redirects, no proxies, and an eye on who is at the other end.

urllib3's connections are used without its pools: the pools follow redirects, retry, and write the path of the URL,
which is a secret at most receivers, to their debug log.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError
from urllib3.exceptions import TimeoutError as Urllib3TimeoutError

from nanwatch.sinks.webhook_url import Endpoint

DEADLINE_S = 15.0
MAX_ANSWER_BYTES = 4096
_SHOWN_CHARS = 200
# Cloud metadata services answer here with credentials; AWS's IPv6 address is not link-local.
_FORBIDDEN = tuple(ipaddress.ip_network(n) for n in ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128"))


class ForbiddenAddressError(Exception):
    """The host's address is one that no webhook receiver has."""


@dataclass(frozen=True)
class Answer:
    """What came back. `status` 0: nothing did, and `text` says why in plain words."""

    status: int
    text: str = ""
    retry_after_s: float | None = None
    forbidden: bool = False
    """The address is one that is never posted to."""


def post(
    endpoint: Endpoint, body: bytes, headers: dict[str, str], now_unix_s: float, deadline_s: float = DEADLINE_S
) -> Answer:
    """One attempt. Returns within `deadline_s`, whatever the other side does; never raises on what it does."""
    attempt = _Attempt(endpoint, body, headers, now_unix_s, deadline_s)
    # Socket timeouts are per read and name resolution has none: only leaving the call behind ends it for certain.
    thread = threading.Thread(target=attempt.run, name="nanwatch-webhook", daemon=True)
    thread.start()
    thread.join(deadline_s)
    if thread.is_alive():
        attempt.abandon()
        return attempt.answer if attempt.answer.status else Answer(0, f"no answer within {deadline_s:g} s")
    return attempt.answer


class _Attempt:
    def __init__(
        self, endpoint: Endpoint, body: bytes, headers: dict[str, str], now_unix_s: float, deadline_s: float
    ) -> None:
        self.answer = Answer(0, "the attempt was not made")
        self._endpoint = endpoint
        self._body = body
        self._headers = headers
        self._now_unix_s = now_unix_s
        self._connection: HTTPConnection = (
            _CheckedHTTPS(endpoint.host, endpoint.port, timeout=deadline_s, ssl_context=ssl.create_default_context())
            if endpoint.scheme == "https"
            else _CheckedHTTP(endpoint.host, endpoint.port, timeout=deadline_s)
        )

    def run(self) -> None:
        try:
            self.answer = self._exchange()
        except Exception as e:  # in a thread: nothing above would see it
            if not self.answer.status:
                self.answer = Answer(0, _in_words(e), forbidden=isinstance(e, ForbiddenAddressError))
        finally:
            self._connection.close()

    def abandon(self) -> None:
        """End the exchange from outside, so that its thread ends too."""
        sock = self._connection.sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                return

    def _exchange(self) -> Answer:
        connection = self._connection
        connection.request("POST", self._endpoint.target, self._body, self._headers, preload_content=False)
        response = connection.getresponse()
        retry_after_s = parse_retry_after(response.headers.get("retry-after"), self._now_unix_s)
        # The status is the answer; a body that never ends only costs its text.
        self.answer = Answer(response.status, "", retry_after_s)
        if 200 <= response.status < 300:
            return self.answer
        raw = response.read(MAX_ANSWER_BYTES, decode_content=False)
        text = "".join(c if c.isprintable() else " " for c in raw.decode("utf-8", "replace"))
        return Answer(response.status, self._endpoint.redacted(text)[:_SHOWN_CHARS].strip(), retry_after_s)


class _CheckedHTTP(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return checked_peer(super()._new_conn())


class _CheckedHTTPS(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return checked_peer(super()._new_conn())


def checked_peer(sock: socket.socket) -> socket.socket:
    """The socket, if its peer may be posted to. Names and odd spellings of addresses are resolved by now.

    Raises: ForbiddenAddressError.
    """
    peer = str(sock.getpeername()[0])
    if is_forbidden(peer):
        sock.close()
        raise ForbiddenAddressError(f"{peer} is a link-local or metadata address, to which nothing is posted")
    return sock


def is_forbidden(address: str) -> bool:
    """Whether an address is link-local or a cloud's metadata service."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return any(ip in network for network in _FORBIDDEN)


def parse_retry_after(value: str | None, now_unix_s: float) -> float | None:
    """Seconds to wait, from a number of seconds or an HTTP date; None where it says nothing sensible."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 9:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_unix_s)
    except (ValueError, TypeError, OverflowError):
        return None


def _in_words(error: Exception) -> str:
    """Why an attempt failed, without any part of the URL."""
    if isinstance(error, ForbiddenAddressError):
        return str(error)
    if isinstance(error, NameResolutionError):
        return "the host's name cannot be resolved"
    # urllib3 calls a refused connection a kind of timeout, so the socket's own error is asked first.
    cause = next((e for e in (error, error.__cause__, error.__context__) if isinstance(e, OSError)), None)
    if isinstance(cause, TimeoutError) or (cause is None and isinstance(error, Urllib3TimeoutError)):
        return "the connection timed out"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"the TLS certificate is not valid: {cause.verify_message}"
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {cause.reason}"
    if cause is not None:
        return cause.strerror or type(cause).__name__
    return f"the exchange failed ({type(error).__name__})" if isinstance(error, HTTPError) else type(error).__name__

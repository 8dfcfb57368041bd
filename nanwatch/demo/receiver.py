"""A webhook receiver on this machine that believes only what is signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

TOLERANCE_S = 300
MAX_BODY_BYTES = 256 * 1024
_POLL_S = 0.05


@dataclass(frozen=True)
class Delivery:
    """One webhook as it came in."""

    id: str
    signed: bool
    """The signature fits the secret and the timestamp is recent."""
    body: dict[str, Any]

    @property
    def type(self) -> str:
        return str(self.body.get("type"))


class Receiver:
    """Listens on 127.0.0.1 at a free port while the `with` block runs; `deliveries` holds what came in, in order."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self.secret = "whsec_" + base64.b64encode(self._key).decode()
        self.deliveries: list[Delivery] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="demo-receiver", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/nanwatch"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", "0"))
                if length > MAX_BODY_BYTES:
                    self.send_error(413)
                    return
                raw = self.rfile.read(length)
                name = self.headers.get("webhook-id", "")
                signed = verify(receiver._key, dict(self.headers.items()), raw, time.time())
                receiver.deliveries.append(Delivery(name, signed, parsed(raw)))
                self.send_response(204 if signed else 401)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is http.server's
                """Stay silent: the terminal belongs to the demo's story."""

        return Handler


def verify(key: bytes, headers: dict[str, str], body: bytes, now_unix_s: float) -> bool:
    """Whether a body carries a valid and recent Standard Webhooks 1.0 signature made with `key`.

    Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    name, stamp = lowered.get("webhook-id", ""), lowered.get("webhook-timestamp", "")
    if not name or not stamp.isdigit() or abs(now_unix_s - int(stamp)) > TOLERANCE_S:
        return False
    digest = hmac.new(key, f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    wanted = "v1," + base64.b64encode(digest).decode()
    given = lowered.get("webhook-signature", "").split()
    return any(hmac.compare_digest(wanted.encode(), one.encode()) for one in given)


def parsed(body: bytes) -> dict[str, Any]:
    """The JSON object in a body, empty when there is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

"""A webhook's URL: checked where it is set, and shown nowhere. Knows no HTTP client, so that the trainer can ask it."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit

from nanwatch.errors import SetupError


@dataclass(frozen=True)
class Endpoint:
    """Where to post to. Its text and repr never show path or query, which hold the secret at most receivers."""

    scheme: str
    host: str
    port: int
    target: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}/…"

    def redacted(self, text: str) -> str:
        """The text without what is secret of this endpoint, for texts that the other side wrote."""
        path, _, query = self.target.partition("?")
        for part in sorted(
            {self.target, path, *path.split("/"), *query.replace("=", "&").split("&")}, key=len, reverse=True
        ):
            if len(part) > 3:
                text = text.replace(part, "…")
        return text


def check_url(url: str) -> Endpoint:
    """The endpoint of a webhook URL.

    Raises: SetupError, which shows no more than scheme and host.
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise SetupError("the webhook URL cannot be read: it has to be like https://host/path") from None
    if parts.scheme not in {"http", "https"} or not host:
        raise SetupError("the webhook URL has to begin with https:// or http:// and name a host")
    if parts.username or parts.password:
        raise SetupError(f"the webhook URL at {host} has a user name in it: leave it out, requests are signed instead")
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not target.isascii() or any(c.isspace() for c in target):
        raise SetupError(f"the webhook URL at {host} has characters that have to be percent-encoded")
    return Endpoint(parts.scheme, host, port or (443 if parts.scheme == "https" else 80), target)

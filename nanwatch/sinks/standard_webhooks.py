"""Standard Webhooks 1.0: the secret, the signature and the headers.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from nanwatch.errors import SetupError

_PREFIX = "whsec_"
_HOW = (
    "it has to be whsec_ and 24 to 64 bytes in base64; make one with: "
    "python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""
)


def check_secret(secret: str | None) -> bytes | None:
    """The key behind a `whsec_...` secret; None for none: then nothing is signed.

    Raises: SetupError, which never shows the secret.
    """
    if secret is None:
        return None
    text = secret.strip()
    if not text.startswith(_PREFIX):
        raise SetupError(f"the webhook secret does not begin with whsec_: {_HOW}")
    encoded = text.removeprefix(_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise SetupError(f"the webhook secret is not base64: {_HOW}") from None
    if not 24 <= len(key) <= 64:
        raise SetupError(f"the webhook secret is {len(key)} bytes long: {_HOW}")
    return key


def headers(key: bytes | None, message_id: str, timestamp_unix_s: float, body: bytes) -> dict[str, str]:
    """The headers of one attempt. The timestamp is the attempt's, so each attempt is signed anew."""
    seconds = str(int(timestamp_unix_s))
    out = {"content-type": "application/json", "webhook-id": message_id, "webhook-timestamp": seconds}
    if key is not None:
        signed = f"{message_id}.{seconds}.".encode() + body
        out["webhook-signature"] = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return out

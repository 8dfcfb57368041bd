import base64
import json
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from nanwatch.errors import SetupError
from nanwatch.sinks.standard_webhooks import check_secret, headers

KEY = bytes(range(32))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def test_the_reference_library_accepts_the_signature():
    body = json.dumps({"text": "größer ≥ 1"}, ensure_ascii=False).encode()
    made = headers(KEY, "msg_1", time.time(), body)
    assert Webhook(SECRET).verify(body, made) == {"text": "größer ≥ 1"}


def test_it_refuses_a_changed_body_id_or_time():
    body = b"{}"
    made = headers(KEY, "msg_1", time.time(), body)
    for changed, sent in (
        ({}, b"{ }"),
        ({"webhook-id": "msg_2"}, body),
        ({"webhook-timestamp": str(int(time.time()) + 9)}, body),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(SECRET).verify(sent, {**made, **changed})


def test_each_attempt_has_its_own_time_and_signature():
    first, second = (headers(KEY, "msg_1", t, b"{}") for t in (1e9, 1e9 + 300))
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-signature"] != second["webhook-signature"]


def test_without_a_secret_nothing_is_signed():
    assert check_secret(None) is None
    assert "webhook-signature" not in headers(None, "msg_1", 1e9, b"{}")


def test_padding_may_be_missing():
    assert check_secret(SECRET.rstrip("=")) == KEY
    assert check_secret(f"  {SECRET}\n") == KEY


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("s3cr3t-canary", "does not begin with whsec_"),
        ("whsec_canary!!", "is not base64"),
        ("whsec_" + base64.b64encode(b"canary").decode(), "is 6 bytes long"),
        ("whsec_" + base64.b64encode(b"k" * 65).decode(), "is 65 bytes long"),
    ],
)
def test_a_bad_secret_is_refused_with_the_way_to_a_good_one_and_never_shown(secret, says):
    with pytest.raises(SetupError) as e:
        check_secret(secret)
    assert says in str(e.value)
    assert "make one with: python -c" in str(e.value)
    assert secret not in str(e.value)
    assert "canary" not in str(e.value)

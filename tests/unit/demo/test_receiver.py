"""Signatures are made by the reference implementation, requests go over a real socket."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import urllib3
from standardwebhooks.webhooks import Webhook

from nanwatch.demo.receiver import Receiver

BODY = json.dumps({"type": "nanwatch.incident.created", "data": {}})


def post(receiver, body=BODY, *, sent=None, secret=None, late_by=timedelta(0), **changed):
    sent = sent or datetime.now(tz=UTC) - late_by
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(int(sent.timestamp())),
        "webhook-signature": Webhook(secret or receiver.secret).sign("msg_1", sent, body),
    } | {name.replace("_", "-"): value for name, value in changed.items()}
    with urllib3.PoolManager() as pool:
        return pool.request("POST", receiver.url, body=body, headers=headers, retries=False).status


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


def test_a_correctly_signed_webhook_is_kept_and_answered_with_success(receiver):
    assert post(receiver) == 204
    (delivery,) = receiver.deliveries
    assert delivery.signed
    assert (delivery.id, delivery.type) == ("msg_1", "nanwatch.incident.created")


def test_one_good_signature_among_several_is_enough(receiver):
    sent = datetime.now(tz=UTC)
    good = Webhook(receiver.secret).sign("msg_1", sent, BODY)
    assert post(receiver, sent=sent, webhook_signature=f"v1,AAAA v1a,BBBB {good}") == 204


@pytest.mark.parametrize(
    "forged",
    [
        {"secret": "whsec_" + "A" * 44},
        {"webhook_id": "msg_2"},
        {"webhook_signature": "garbage"},
        {"webhook_signature": ""},
        {"webhook_timestamp": "soon"},
        {"late_by": timedelta(hours=1)},
    ],
    ids=str,
)
def test_a_forged_or_stale_webhook_is_refused_and_marked(receiver, forged):
    assert post(receiver, **forged) == 401
    assert [d.signed for d in receiver.deliveries] == [False]


def test_a_changed_body_is_refused(receiver):
    sent = datetime.now(tz=UTC)
    signature = Webhook(receiver.secret).sign("msg_1", sent, BODY)
    assert post(receiver, BODY + " ", sent=sent, webhook_signature=signature) == 401


def test_a_body_that_is_no_json_object_does_no_harm(receiver):
    assert post(receiver, "[1") == 204
    assert receiver.deliveries[0].body == {}

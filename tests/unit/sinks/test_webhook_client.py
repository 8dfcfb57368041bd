from email.utils import formatdate

import pytest

from nanwatch.errors import SetupError
from nanwatch.sinks.webhook_client import is_forbidden, parse_retry_after
from nanwatch.sinks.webhook_url import check_url

SLACK = "https://hooks.slack.com/services/T0001/B0002/canarycanary?token=canarytoken&x=1"


def test_an_endpoint_shows_no_path():
    endpoint = check_url(SLACK)
    assert str(endpoint) == "https://hooks.slack.com/…"
    assert "canary" not in repr(endpoint)
    assert endpoint.port == 443
    assert endpoint.target == "/services/T0001/B0002/canarycanary?token=canarytoken&x=1"


def test_what_the_other_side_writes_back_is_redacted():
    endpoint = check_url(SLACK)
    assert "canary" not in endpoint.redacted("Cannot POST /services/T0001/B0002/canarycanary?token=canarytoken&x=1")
    assert "canary" not in endpoint.redacted("no such token: canarytoken")


@pytest.mark.parametrize(
    "url",
    ["", "ftp://h/x", "https://", "hooks.slack.com/services", "http://[::1", "http://u:canary@h/", "http://h:99999/"],
)
def test_a_url_that_cannot_be_used_is_refused_without_showing_it(url):
    with pytest.raises(SetupError) as e:
        check_url(url)
    assert "canary" not in str(e.value)


@pytest.mark.parametrize(
    ("address", "forbidden"),
    [
        ("169.254.169.254", True),
        ("::ffff:169.254.169.254", True),
        ("fe80::1%eth0", True),
        ("fd00:ec2::254", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("::1", False),
        ("203.0.113.9", False),
    ],
)
def test_link_local_and_metadata_addresses_are_forbidden(address, forbidden):
    assert is_forbidden(address) is forbidden


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("30", 30.0),
        (" 0 ", 0.0),
        (formatdate(1_000_090, usegmt=True), 90.0),
        (formatdate(999_000, usegmt=True), 0.0),
        ("soon", None),
        ("-5", None),
        ("9" * 40, None),
        ("٣", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value, seconds):
    assert parse_retry_after(value, 1_000_000.0) == seconds

"""docs/webhooks.md says what the sink does, as far as a machine can tell."""

import re
from pathlib import Path

from nanwatch.sinks import webhook
from nanwatch.sinks.standard_webhooks import check_secret
from nanwatch.sinks.webhook_client import DEADLINE_S, is_forbidden

PAGE = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text()


def test_every_type_is_listed():
    types = {
        webhook.INCIDENT_CREATED,
        webhook.ALERT_FIRING,
        webhook.ALERT_RESOLVED,
        webhook.RUN_STALLED,
        webhook.RUN_DIED,
    }
    assert set(re.findall(r"^\| `(nanwatch\.[\w.]+)` \|", PAGE, re.MULTILINE)) == types


def test_the_secret_in_the_page_is_a_valid_one():
    (secret,) = re.findall(r"=(whsec_\S+)", PAGE)
    assert check_secret(secret) is not None


def test_the_times_in_the_page_are_those_of_the_code():
    seconds = {"s": 1, "min": 60, "h": 3600}
    schedule = PAGE.partition("tried again after ")[2].partition(";")[0]
    told = [int(n) * seconds[unit] for n, unit in re.findall(r"(\d+) (s|min|h)", schedule)]
    assert tuple(told) == webhook.RETRY_DELAYS_S
    assert f"none within {DEADLINE_S:g} s" in PAGE
    assert f"waits up to {webhook.HOLD_S:g} seconds" in PAGE
    assert is_forbidden("169.254.0.1")

"""The webhook against real servers that misbehave, and an agent's process that is killed."""

import base64
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from email.utils import formatdate

import pytest
from standardwebhooks import Webhook
from werkzeug import Response

from nanwatch.errors import SinkError
from nanwatch.records import Alert, RunRecord
from nanwatch.sinks import webhook_client
from nanwatch.sinks.outbox import Outbox
from nanwatch.sinks.sink import RunEnd
from nanwatch.sinks.webhook import RETRY_DELAYS_S, WebhookSink

SECRET = "whsec_" + base64.b64encode(bytes(range(40, 72))).decode()
PATH = "/services/T0/canarypath"
RUN = RunRecord("run-1", 0, 1, 4242, "gpu-7", 1e9, (), {}, "/home/me/train.py", {})
ALERT = Alert("r", "threshold", "firing", "warning", "f-3", "f", "grad_norm", 3, 0, "It is high.")


def make(url, folder, **options):
    return WebhookSink(url, SECRET, folder, RUN, None, dict, uniform=lambda low, high: high, **options)


@pytest.fixture
def sink(httpserver, tmp_path):
    made = make(httpserver.url_for(PATH), tmp_path)
    made.alert(ALERT)
    return made


def attempt(sink, now):
    """Ship once; the error, if there was one."""
    try:
        sink.ship(now, final=False)
    except SinkError as e:
        return e
    return None


def test_a_retry_has_the_same_id_and_body_and_a_new_valid_signature(sink, httpserver):
    httpserver.expect_ordered_request(PATH).respond_with_data("down", status=503)
    httpserver.expect_ordered_request(PATH).respond_with_data("", status=204)
    now = time.time()
    error = attempt(sink, now)
    assert error is not None
    assert not error.permanent
    assert attempt(sink, now + 7) is None
    first, second = (request for request, _ in httpserver.log)
    for request in (first, second):
        assert Webhook(SECRET).verify(request.data, dict(request.headers))["type"] == "nanwatch.alert.firing"
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert first.data == second.data
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]


def test_the_schedule_is_followed_and_then_it_is_given_up(sink, httpserver, tmp_path):
    httpserver.expect_request(PATH).respond_with_data("", status=500)
    now = time.time()
    for delay_s in RETRY_DELAYS_S:
        assert attempt(sink, now) is not None
        assert attempt(sink, now + delay_s * 0.79) is None  # not due yet
        now += delay_s * 1.21
    assert attempt(sink, now) is None
    assert len(httpserver.log) == len(RETRY_DELAYS_S) + 1
    (dead,) = (tmp_path / "dead").iterdir()
    assert json.loads(dead.read_text())["outcome"] == "500"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_a_failure_and_nobody_is_followed(sink, httpserver, status):
    httpserver.expect_request("/elsewhere").respond_with_data("ok")
    httpserver.expect_request(PATH).respond_with_response(
        Response("", status, {"Location": httpserver.url_for("/elsewhere")})
    )
    error = attempt(sink, time.time())
    assert "redirects are not followed" in str(error)
    assert [request.path for request, _ in httpserver.log] == [PATH]


def test_gone_means_no_more(sink, httpserver, tmp_path):
    httpserver.expect_request(PATH).respond_with_data("", status=410)
    error = attempt(sink, time.time())
    assert error.permanent
    sink.alert(Alert("r", "threshold", "firing", "warning", "f-9", "f", "grad_norm", 9, 0, "It is high."))
    assert sink.ship(time.time() + 1e6, final=True)
    sink.close(RunEnd("killed", "", "FAILED"))
    assert len(httpserver.log) == 1
    assert sink.state()["disabled"]
    assert len(list((tmp_path / "pending").iterdir())) == 2  # for the next URL


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_a_refusal_is_final_and_kept_with_its_reason(sink, httpserver, tmp_path, status, caplog):
    httpserver.expect_request(PATH).respond_with_data(f"no such hook {PATH}", status=status)
    assert sink.ship(time.time(), final=False)
    (dead,) = (tmp_path / "dead").iterdir()
    assert json.loads(dead.read_text())["outcome"] == f"{status} no such hook …"
    assert "kept in outbox/dead" in caplog.text


@pytest.mark.parametrize(
    ("retry_after", "wait_s"), [("120", 120), ("99999", 600), ("0", 1), ("date", 90), ("garbage", 5 * 1.2)]
)
@pytest.mark.parametrize("status", [408, 425, 429, 503])
def test_retry_after_is_honoured_within_ten_minutes(sink, httpserver, status, retry_after, wait_s):
    now = float(int(time.time()) + 1)
    value = formatdate(now + 90, usegmt=True) if retry_after == "date" else retry_after
    httpserver.expect_ordered_request(PATH).respond_with_response(Response("", status, {"Retry-After": value}))
    httpserver.expect_ordered_request(PATH).respond_with_data("")
    error = attempt(sink, now)
    asked = {"date": 90.0, "garbage": None}
    assert error.retry_after_s == (asked[retry_after] if retry_after in asked else float(retry_after))
    assert attempt(sink, now + wait_s - 0.5) is None
    assert len(httpserver.log) == 1
    assert sink.ship(now + wait_s + 0.5, final=False)


class Dribble:
    """A server that sends one byte at a time and never comes to an end."""

    def __init__(self, head: bytes) -> None:
        self.closed = threading.Event()
        self._head = head
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}{PATH}"
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._socket.close()
        self._thread.join(10)

    def _serve(self):
        connection, _ = self._socket.accept()
        connection.settimeout(10)
        with connection:
            connection.recv(65536)
            connection.sendall(self._head)
            try:
                for _ in range(200):
                    connection.sendall(b"x")
                    if self.closed.wait(0.05):
                        return
            except OSError:
                self.closed.set()


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 50"])
def test_a_server_that_dribbles_is_cut_off_at_the_deadline(tmp_path, head):
    with Dribble(head) as server:
        sink = make(server.url, tmp_path, deadline_s=0.5)
        sink.alert(ALERT)
        error = attempt(sink, time.time())
        assert "no answer within 0.5 s" in str(error)
        assert server.closed.wait(5), "the connection was left open"


def test_an_answer_whose_body_never_ends_still_counts(tmp_path):
    with Dribble(b"HTTP/1.1 500 Oops\r\nContent-Length: 9999\r\n\r\n") as server:
        sink = make(server.url, tmp_path, deadline_s=0.5)
        sink.alert(ALERT)
        assert "500" in str(attempt(sink, time.time()))
        server.closed.set()


def test_no_server_at_all_is_said_in_plain_words(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    sink = make(f"http://127.0.0.1:{port}{PATH}", tmp_path)
    sink.alert(ALERT)
    assert str(attempt(sink, time.time())) == "webhook to http://127.0.0.1/…: Connection refused"


def test_plain_http_where_tls_is_expected_is_said_in_plain_words(httpserver, tmp_path):
    sink = make(httpserver.url_for(PATH).replace("http://", "https://"), tmp_path)
    sink.alert(ALERT)
    assert "TLS failed" in str(attempt(sink, time.time()))


def test_a_forbidden_peer_gets_nothing(sink, httpserver, tmp_path, monkeypatch):
    # No test machine has a metadata service: loopback stands in for its address, everything else is real.
    monkeypatch.setattr(webhook_client, "is_forbidden", lambda address: address == "127.0.0.1")
    httpserver.expect_request(PATH).respond_with_data("ok")
    assert sink.ship(time.time(), final=False)
    assert httpserver.log == []
    (dead,) = (tmp_path / "dead").iterdir()
    assert "127.0.0.1 is a link-local or metadata address" in json.loads(dead.read_text())["outcome"]


def test_at_the_end_everything_is_tried_once_whatever_its_schedule(sink, httpserver):
    httpserver.expect_request(PATH).respond_with_data("", status=500)
    now = time.time()
    assert attempt(sink, now) is not None
    for _ in range(3):
        try:
            sink.ship(now + 1, final=True)
        except SinkError:
            pass
    assert len(httpserver.log) == 2


def test_no_secret_is_in_files_logs_or_errors(sink, httpserver, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    httpserver.expect_ordered_request(PATH).respond_with_data(f"echo {PATH}", status=500)
    httpserver.expect_ordered_request(PATH).respond_with_data(f"echo {PATH}", status=404)
    error = attempt(sink, time.time())
    attempt(sink, time.time() + 10)
    ours = [record.getMessage() for record in caplog.records if record.name != "werkzeug"]
    told = "".join([str(error), repr(error), *ours, json.dumps(sink.state())])
    told += "".join(p.read_text() for p in tmp_path.rglob("*.json"))
    assert "canarypath" not in told
    assert SECRET not in told
    assert SECRET.removeprefix("whsec_") not in told


AGENT = """
import sys, time
from pathlib import Path
from nanwatch.records import Alert, RunRecord
from nanwatch.sinks.webhook import WebhookSink
url, secret, folder = sys.argv[1:]
run = RunRecord("run-1", 0, 1, 4242, "gpu-7", 1e9, (), {}, "/home/me/train.py", {})
sink = WebhookSink(url, secret, Path(folder), run, None, dict)
sink.alert(Alert("r", "threshold", "firing", "warning", "f-3", "f", "grad_norm", 3, 0, "It is high."))
print("taken in", flush=True)
if sys.stdin.readline() == "ship\\n":
    sink.ship(time.time(), final=False)
"""


def start_agent(url, folder):
    command = [sys.executable, "-c", AGENT, url, SECRET, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken in\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    process.stdin.close()
    process.stdout.close()


def test_a_crash_between_taking_in_and_sending_loses_nothing(httpserver, tmp_path):
    httpserver.expect_request(PATH).respond_with_data("")
    kill(start_agent(httpserver.url_for(PATH), tmp_path))
    again = make(httpserver.url_for(PATH), tmp_path)
    again.alert(ALERT)
    assert again.ship(time.time(), final=False)
    assert len(httpserver.log) == 1


def test_a_crash_between_the_answer_and_the_note_of_it_repeats_the_same_id(httpserver, tmp_path):
    # given: a receiver that takes the message in and kills the agent before it can note the answer
    ids = []
    agents = []

    def receive(request):
        ids.append(request.headers["webhook-id"])
        if agents:
            os.kill(agents.pop().pid, signal.SIGKILL)
        return Response("")

    httpserver.expect_request(PATH).respond_with_handler(receive)
    process = start_agent(httpserver.url_for(PATH), tmp_path)
    agents.append(process)
    # when
    process.stdin.write("ship\n")
    process.stdin.flush()
    process.wait(10)
    kill(process)
    assert [e.attempts for e in Outbox(tmp_path).pending()] == [0]
    again = make(httpserver.url_for(PATH), tmp_path)
    assert again.ship(time.time() + 1, final=False)
    # then
    assert len(ids) == 2
    assert ids[0] == ids[1]

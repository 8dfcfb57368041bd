"""The webhook over TLS, with a certificate made for the test."""

import datetime as dt
import ipaddress
import ssl
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pytest_httpserver import HTTPServer

from nanwatch.errors import SinkError
from nanwatch.records import Alert, RunRecord
from nanwatch.sinks.webhook import WebhookSink

RUN = RunRecord("run-1", 0, 1, 4242, "gpu-7", 1e9, (), {}, "/home/me/train.py", {})
ALERT = Alert("r", "threshold", "firing", "warning", "f-3", "f", "grad_norm", 3, 0, "It is high.")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-signed certificate for 127.0.0.1, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + pem)
    return path


@pytest.fixture
def server(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with HTTPServer(host="127.0.0.1", ssl_context=context) as made:
        made.expect_request("/hook").respond_with_data("ok")
        yield made


@pytest.fixture
def sink(server, tmp_path):
    made = WebhookSink(server.url_for("/hook"), None, tmp_path, RUN, None, dict)
    made.alert(ALERT)
    return made


def test_a_trusted_certificate_is_fine(sink, server, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert sink.ship(time.time(), final=False)
    assert len(server.log) == 1


def test_an_untrusted_one_gets_nothing_and_says_why(sink, server):
    with pytest.raises(SinkError, match="the TLS certificate is not valid: self-signed certificate"):
        sink.ship(time.time(), final=False)
    assert server.log == []


def test_a_certificate_of_another_host_gets_nothing(server, certificate, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    sink = WebhookSink(server.url_for("/hook").replace("127.0.0.1", "localhost"), None, tmp_path, RUN, None, dict)
    sink.alert(ALERT)
    with pytest.raises(SinkError, match="not valid"):
        sink.ship(time.time(), final=False)
    assert server.log == []

import json
import os
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest


def findings(result):
    return {one["check"]: one for one in json.loads(result.stdout)}


def test_a_sound_environment_is_fine(nanwatch, home):
    result = nanwatch("doctor", "--json")
    assert result.exit_code == 0, result.stdout
    assert {one["verdict"] for one in findings(result).values()} == {"fine"}
    assert set(findings(result)) == {"python", "torch", "mlflow", "runs", "tracking"}


def test_looking_leaves_nothing_behind(nanwatch, home):
    nanwatch("doctor")
    assert list(home.iterdir()) == []


def test_the_table_names_every_check(nanwatch, home):
    result = nanwatch("doctor")
    for word in ("python", "torch", "mlflow", "runs", "tracking"):
        assert word in result.stdout


def test_a_wrong_setting_is_broken_and_the_rest_is_checked(nanwatch, home, monkeypatch):
    monkeypatch.setenv("NANWATCH_GUARD", "maybe")
    result = nanwatch("doctor", "--json")
    assert result.exit_code == 3
    assert "guard" in findings(result)["settings"]["says"]
    assert findings(result)["torch"]["verdict"] == "fine"


def test_a_folder_below_a_file_cannot_hold_runs(nanwatch, home, monkeypatch):
    (home / "file").write_text("")
    monkeypatch.setenv("NANWATCH_DIR", str(home / "file" / "runs"))
    result = nanwatch("doctor", "--json")
    assert result.exit_code == 3
    assert "NANWATCH_DIR" in findings(result)["runs"]["fix"]


def test_mlflow_switched_off_is_a_note(nanwatch, home, monkeypatch):
    monkeypatch.setenv("NANWATCH_MLFLOW", "0")
    result = nanwatch("doctor", "--json")
    assert result.exit_code == 0
    assert findings(result)["tracking"]["verdict"] == "note"


def test_a_database_of_something_else_is_broken(nanwatch, home, monkeypatch):
    database = sqlite3.connect(home / "other.db")
    database.execute("CREATE TABLE cats (name)")
    database.close()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{home / 'other.db'}")
    result = nanwatch("doctor", "--json")
    assert result.exit_code == 3
    assert "mlflow db upgrade" in findings(result)["tracking"]["fix"]


def test_a_server_that_nobody_runs_is_broken(nanwatch, home, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = nanwatch("doctor", "--json")
    assert result.exit_code == 3
    assert "MLFLOW_TRACKING_URI" in findings(result)["tracking"]["fix"]


@pytest.fixture
def refusing_server():
    """Answers as MLflow's server does to a Host header that it was not told to accept."""

    class Handler(BaseHTTPRequestHandler):
        def _refuse(self):
            self.send_response(403)
            self.end_headers()
            self.wfile.write(b"Invalid Host header - possible DNS rebinding attack detected")

        do_GET = do_POST = _refuse

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_that_refuses_its_own_name_is_explained(nanwatch, home, monkeypatch, refusing_server):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", refusing_server)
    result = nanwatch("doctor", "--json")
    assert result.exit_code == 3
    assert "--allowed-hosts" in findings(result)["tracking"]["says"]


@pytest.fixture(autouse=True)
def environment_as_before():
    """The connection to MLflow prepares the environment of its process, which here is everybody's."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)

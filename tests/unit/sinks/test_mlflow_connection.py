"""Errors of MLflow in words that say what to do; no credential in any of them."""

import email.utils
import os
import subprocess
import sys
import time

import pytest

from nanwatch.sinks.mlflow_connection import seconds_to_wait, without_credentials


def test_nothing_of_mlflow_is_loaded_before_it_is_needed():
    code = (
        "import sys, nanwatch.sinks.mlflow; "
        "sys.exit([m for m in ('mlflow', 'torch', 'sqlalchemy', 'requests') if m in sys.modules] or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=os.environ)
    assert done.returncode == 0, done.stderr


def test_no_credential_is_shown():
    text = "failed: https://me:secret@host:5000/api and postgresql://u:p%40@db/x"
    assert without_credentials(text) == "failed: https://host:5000/api and postgresql://db/x"


@pytest.mark.parametrize(("header", "seconds"), [(None, None), ("", None), ("7", 7), ("99999", 600), ("soon", None)])
def test_retry_after_in_seconds(header, seconds):
    assert seconds_to_wait(header) == seconds


def test_retry_after_as_a_date():
    assert 50 < seconds_to_wait(email.utils.formatdate(time.time() + 60, usegmt=True)) <= 60
    assert seconds_to_wait(email.utils.formatdate(time.time() - 60, usegmt=True)) == 0

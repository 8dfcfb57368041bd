import json
import math
import os
from dataclasses import replace

import pytest

from nanwatch.errors import SinkError
from nanwatch.sinks.jsonl import JsonlSink, iso
from nanwatch.sinks.sink import RunEnd
from nanwatch.testing import example_alert

AT = 1_795_546_862.345


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_schema_time_and_the_alert_and_no_bare_nan(tmp_path):
    path = tmp_path / "alerts.jsonl"
    sink = JsonlSink(path, lambda: AT)
    sink.alert(replace(example_alert(), value=math.nan, summary="ü\nline"))
    assert sink.ship(0.0, final=False)
    (line,) = lines(path)
    assert list(line)[:2] == ["schema", "time"]
    assert line["schema"] == "nanwatch.alert/1"
    assert line["time"] == "2026-11-24T19:01:02.345Z"
    assert line["value"] == "NaN"
    assert line["summary"] == "ü\nline"
    assert line["fix"] == ["Lower the learning rate."]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_transition_is_written_once_also_by_the_next_agent(tmp_path):
    path = tmp_path / "alerts.jsonl"
    first = JsonlSink(path, lambda: AT)
    for alert in (example_alert(), example_alert(), example_alert(4)):
        first.alert(alert)
    first.ship(0.0, final=True)
    first.close(RunEnd("finished", "", "FINISHED"))
    second = JsonlSink(path, lambda: AT)
    for alert in (example_alert(), example_alert(4), example_alert(9, "resolved")):
        second.alert(alert)
    second.ship(0.0, final=True)
    assert [(a["step"], a["state"]) for a in lines(path)] == [(3, "firing"), (4, "firing"), (9, "resolved")]
    assert second.state() == {"written": 1, "waiting": 0}


def test_a_line_that_the_last_agent_was_killed_in_is_cut_off(tmp_path):
    path = tmp_path / "alerts.jsonl"
    sink = JsonlSink(path, lambda: AT)
    sink.alert(example_alert())
    sink.ship(0.0, final=False)
    with path.open("ab") as f:
        f.write(b'{"schema": "nanwatch.al')
    again = JsonlSink(path, lambda: AT)
    again.alert(example_alert(7))
    again.ship(0.0, final=False)
    assert [a["step"] for a in lines(path)] == [3, 7]


def test_rubbish_in_the_file_is_left_alone(tmp_path):
    path = tmp_path / "alerts.jsonl"
    path.write_text('no json\n{"other": 1}\n3\n')
    sink = JsonlSink(path, lambda: AT)
    sink.alert(example_alert())
    assert sink.ship(0.0, final=False)
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("short", [True, False])
def test_a_full_disk_loses_nothing_and_leaves_no_half_line(tmp_path, monkeypatch, short):
    path = tmp_path / "alerts.jsonl"
    sink = JsonlSink(path, lambda: AT)
    real = os.write

    def full(fd, data):
        if short:
            return real(fd, data[:7])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    sink.alert(example_alert())
    for _ in range(2):
        with pytest.raises(SinkError, match=r"(?i)no space left"):
            sink.ship(0.0, final=False)
    sink.alert(example_alert(4))
    assert path.read_bytes() == b""
    monkeypatch.setattr(os, "write", real)
    assert sink.ship(0.0, final=False)
    assert [a["step"] for a in lines(path)] == [3, 4]


def test_time_is_utc_with_milliseconds():
    assert iso(0.0) == "1970-01-01T00:00:00.000Z"

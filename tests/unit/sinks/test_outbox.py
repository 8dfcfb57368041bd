import dataclasses
import json
import os
import signal
import stat
import subprocess
import sys

from nanwatch.sinks import outbox as outbox_module
from nanwatch.sinks.outbox import Notification, Outbox, notification_id


def entry(name="a", **more):
    body = {"type": "t", "timestamp": "2026-01-01T00:00:00Z", "data": {"text": "größer \udc80"}}
    return Notification(notification_id(name), "t", body, next_attempt_unix_s=1.0, **more)


def test_a_notification_survives_a_restart_as_it_was(tmp_path):
    Outbox(tmp_path).put(entry(about={"step": 3}))
    (again,) = Outbox(tmp_path).pending()
    assert again == dataclasses.replace(entry(about={"step": 3}), number=1)


def test_files_and_folders_are_private(tmp_path):
    Outbox(tmp_path / "outbox").put(entry())
    (path,) = (tmp_path / "outbox" / "pending").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_nothing_is_put_in_twice_whatever_became_of_it(tmp_path):
    box = Outbox(tmp_path)
    for state in ("sent", "dead"):
        assert box.put(entry(state))
        box.settle(box.get(notification_id(state)), state)
    assert not Outbox(tmp_path).put(entry("sent"))
    assert not Outbox(tmp_path).put(entry("dead"))
    assert Outbox(tmp_path).counts() == {"pending": 0, "sent": 1, "dead": 1}


def test_the_order_of_putting_in_is_kept(tmp_path):
    box = Outbox(tmp_path)
    for name in "zqa":
        box.put(entry(name))
    assert [e.id for e in Outbox(tmp_path).pending()] == [notification_id(n) for n in "zqa"]


def test_a_crash_between_the_halves_of_settling_does_not_send_again(tmp_path):
    box = Outbox(tmp_path)
    box.put(entry())
    (pending,) = (tmp_path / "pending").iterdir()
    kept = pending.read_bytes()
    box.settle(box.pending()[0], "sent")
    pending.write_bytes(kept)
    again = Outbox(tmp_path)
    assert again.pending() == []
    assert not pending.exists()


def test_half_written_and_unreadable_files_are_set_aside(tmp_path, caplog):
    Outbox(tmp_path)
    (tmp_path / "pending" / "msg_x.json.part").write_text('{"id": ')
    (tmp_path / "pending" / "msg_y.json").write_text('{"id": ')
    (tmp_path / "pending" / "msg_z.json").write_text("[]")
    assert Outbox(tmp_path).pending() == []
    assert list((tmp_path / "pending").iterdir()) == []
    assert sorted(p.name for p in (tmp_path / "dead").iterdir()) == ["msg_y.json.unreadable", "msg_z.json.unreadable"]
    assert "msg_y.json cannot be read" in caplog.text


def test_there_is_a_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox_module, "MAX_PENDING", 2)
    box = Outbox(tmp_path)
    assert [box.put(entry(n)) for n in "abc"] == [True, True, False]
    assert box.refused == 1


def test_a_process_that_is_killed_while_it_writes_leaves_whole_files_only(tmp_path):
    # given: a process that puts in and settles without end
    program = f"""
from pathlib import Path
from nanwatch.sinks.outbox import Notification, Outbox, notification_id
box = Outbox(Path({str(tmp_path)!r}))
print("ready", flush=True)
for i in range(100_000):
    box.put(Notification(notification_id(str(i)), "t", {{"data": "x" * 5000}}, next_attempt_unix_s=0.0))
    if i % 2:
        box.settle(box.pending()[0], "sent")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert process.stdout is not None
    process.stdout.readline()
    while len(list((tmp_path / "sent").iterdir())) < 5:
        pass
    # when
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    # then
    for path in [*(tmp_path / "pending").glob("*.json"), *(tmp_path / "sent").glob("*.json")]:
        assert json.loads(path.read_text())["body"]["data"] == "x" * 5000
    box = Outbox(tmp_path)
    numbers = sorted(e.number for e in box.all())
    assert numbers == list(range(1, len(numbers) + 1))

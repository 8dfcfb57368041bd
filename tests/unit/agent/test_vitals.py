import subprocess
import sys

from nanwatch.agent.vitals import Vitals

TRAINER = {"trainer_cpu_percent", "trainer_rss_mb", "trainer_threads", "trainer_fds"}


def test_trainer_host_and_agent_are_measured(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(30)"], stdout=subprocess.PIPE
    )
    child.stdout.readline()  # before its exec the child is still a copy of this process
    try:
        record = Vitals(child.pid, tmp_path).read(7.0)
    finally:
        child.kill()
        child.communicate()
    assert record.time_unix_s == 7.0
    assert record.values.keys() >= TRAINER
    assert 1 < record.values["trainer_rss_mb"] < 1000
    assert 0 <= record.values["host_memory_percent"] <= 100
    assert record.values["disk_free_mb"] > 0
    assert record.values["agent_rss_mb"] > 5


def test_what_cannot_be_known_is_absent(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"])
    vitals = Vitals(child.pid, tmp_path)
    child.kill()
    child.wait()
    values = vitals.read(0.0).values
    assert not TRAINER & values.keys()
    assert "host_cpu_percent" in values
    assert not TRAINER & Vitals(child.pid, tmp_path).read(0.0).values.keys()
    assert "disk_free_mb" not in Vitals(child.pid, tmp_path / "gone").read(0.0).values

"""How a run ends, what is kept over kills, and who may serve a folder."""

import signal
import time

import psutil
import pyarrow.parquet as pq
import pytest


def test_a_killed_trainer_loses_no_record_and_is_reported_as_killed(run):
    run.train("""
        writer = begin()
        for n in range(400):
            writer.write(step(n))
        wait_ack(writer)
        for n in range(400, 405):
            writer.write(step(n, float("nan"), bad=True))
        say("written")
        time.sleep(60)
    """)
    run.prepare()
    run.start_agent()
    run.hear("written")
    run.trainer.kill()
    run.trainer.wait()
    run.agent_ends()
    assert run.steps() == list(range(405))
    assert "the run is over: killed (KILLED) killed by SIGKILL" in run.log()
    assert not (run.dir / "timeline").exists()
    firing = [a for a in run.alerts() if a["state"] == "firing"]
    assert any(a["step"] == 400 for a in firing)
    assert run.alerts()[0]["schema"] == "nanwatch.alert/1"
    assert run.json("ledger.json")["counts"]["seen.step"] == 405
    assert list(run.json("ack.json")["ranks"]) == ["0"]


def test_a_torn_record_at_the_kill_costs_only_itself(run):
    run.train("""
        writer = begin()
        writer.write(step(0))
        os.write(writer._fd, b"\\x40\\0\\0\\0half of a frame")
        say("written")
        time.sleep(60)
    """)
    run.prepare()
    run.start_agent()
    run.hear("written")
    run.trainer.kill()
    run.agent_ends()
    assert run.steps() == [0]
    assert run.json("ledger.json")["counts"]["dropped.spool_damaged"] == 1


@pytest.mark.parametrize(
    ("last_words", "expected"),
    [
        ('writer.write(EndRecord(0, "finished", "", time.time()))', "finished (FINISHED)"),
        ('writer.write(EndRecord(0, "finished", "", time.time())); os._exit(3)', "exception (FAILED)"),
        ('writer.write(EndRecord(0, "exception", "ValueError: no", time.time())); os._exit(1)', "exception (FAILED)"),
        ("os._exit(0)", "finished (FINISHED)"),
        ("os.abort()", "exception (FAILED) killed by SIGABRT"),
        ("os.kill(os.getpid(), 15); time.sleep(9)", "killed (KILLED) killed by SIGTERM"),
    ],
)
def test_the_end_is_told_by_the_farewell_and_the_kernel(run, last_words, expected):
    run.train(f"""
        writer = begin()
        writer.write(step(0))
        say("written")
        sys.stdin.readline()
        {last_words}
    """)
    run.prepare()
    run.start_agent()
    run.hear("written")
    run.wait_for("following the spool of rank 0")
    run.trainer.communicate("go\n", timeout=20)
    run.agent_ends()
    assert f"the run is over: {expected}" in run.log()


def test_a_detached_trainer_ends_the_agent_while_it_lives_on(run):
    run.train("""
        writer = begin()
        writer.write(step(0))
        writer.write(EndRecord(0, "detached", "", time.time()))
        say("written")
        time.sleep(60)
    """)
    run.prepare()
    run.start_agent()
    run.agent_ends()
    assert run.trainer.poll() is None
    assert "the run is over: detached (FINISHED)" in run.log()
    assert not (run.dir / "agent.lock").exists()


def test_a_trainer_gone_before_the_agent_started_has_vanished_and_its_spool_is_read(run):
    run.train('writer = begin(); writer.write(step(0)); say("written"); os._exit(7)')
    started = psutil.Process(run.trainer.pid).create_time()
    run.prepare()
    run.hear("written")
    run.trainer.wait()
    run.start_agent(started)
    run.agent_ends()
    assert run.steps() == [0]
    assert "vanished (FAILED) vanished, cause unknown" in run.log()


def test_a_rank_that_appears_later_is_followed_and_waited_for(run):
    run.train("""
        writer = begin()
        writer.write(step(0))
        wait_ack(writer)
        other = begin(rank=1)
        other.write(step(0, rank=1))
        wait_ack(other, 1)
        say("acknowledged")
    """)
    run.prepare()
    run.start_agent()
    run.hear("acknowledged")
    run.agent_ends()
    table = pq.read_table(run.dir / "timeline.parquet").to_pandas()
    assert sorted(table["rank"].unique()) == [0, 1]


def test_a_second_agent_refuses_and_a_killed_one_is_replaced_without_a_second_alert(run):
    run.train("""
        writer = begin()
        for n in range(50):
            writer.write(step(n))
        writer.write(step(50, float("nan"), bad=True))
        wait_ack(writer)
        say("acknowledged")
        sys.stdin.readline()
        writer.write(step(51))
        wait_ack(writer)
    """)
    run.prepare()
    first = run.start_agent()
    run.hear("acknowledged")
    before = run.alerts()
    assert before
    run.start_agent()
    run.agent_ends(code=3)
    assert "another agent serves this folder" in run.log()
    first.kill()
    first.communicate()
    run.start_agent()
    run.trainer.communicate("go\n", timeout=30)
    run.agent_ends()
    assert run.steps() == list(range(52))
    assert run.alerts()[: len(before)] == before
    keys = [(a["id"], a["state"], a["step"]) for a in run.alerts()]
    assert len(keys) == len(set(keys))


def test_sigterm_ends_the_agent_soon_and_the_next_one_goes_on(run):
    run.train("""
        writer = begin()
        writer.write(step(0))
        wait_ack(writer)
        say("acknowledged")
        sys.stdin.readline()
        writer.write(step(1))
        wait_ack(writer)
    """)
    run.prepare()
    agent = run.start_agent()
    run.hear("acknowledged")
    agent.send_signal(signal.SIGTERM)
    agent.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    agent.send_signal(signal.SIGTERM)
    run.agent_ends()
    assert "the run is over" not in run.log()
    run.start_agent()
    run.trainer.communicate("go\n", timeout=30)
    run.agent_ends()
    assert run.steps() == [0, 1]


def test_a_folder_without_run_json_is_refused_with_a_reason(run):
    run.train("time.sleep(30)")
    run.start_agent()
    run.agent_ends(code=3)
    assert "not a readable run.json" in run.log()


def test_everything_is_private(run):
    run.train('writer = begin(); writer.write(step(0)); wait_ack(writer); say("acknowledged")')
    run.prepare()
    run.start_agent()
    run.agent_ends()
    own = [p for p in run.dir.rglob("*") if p.name not in {"run.json", "rules.json"} and p.is_file()]
    assert len(own) >= 6
    assert {p.stat().st_mode & 0o077 for p in own} == {0}


def test_the_timeline_can_be_asked_for_in_the_middle_of_a_run(run):
    run.train("""
        writer = begin()
        for n in range(3):
            writer.write(step(n))
        wait_ack(writer)
        say("acknowledged")
        sys.stdin.readline()
        writer.write(step(3))
    """)
    run.prepare()
    agent = run.start_agent()
    run.hear("acknowledged")
    agent.send_signal(signal.SIGUSR1)
    run.until((run.dir / "timeline.parquet").exists)
    assert run.steps() == [0, 1, 2]
    run.trainer.communicate("go\n", timeout=20)
    run.agent_ends()
    assert run.steps() == [0, 1, 2, 3]

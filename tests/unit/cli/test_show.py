import json
import os
import subprocess
import sys

import pytest


def alert(name="a1", state="firing", **more):
    return {"id": name, "rule": "exploding-gradient", "state": state, "severity": "warning", "step": 8, **more}


def test_a_bundle_tells_where_why_and_what_to_do(nanwatch, make, home):
    bundle = make.bundle(home, make.incident())
    result = nanwatch("show", bundle)
    assert result.exit_code == 1
    for words in (
        "The loss became NaN at step 12",
        "/home/me/train.py:41",
        "weights = scores[None].softmax(-1)",
        "softmax made the first NaN in blocks.0.attention (train.py:41)",
        "blocks.0.attention (Attention)",
        "masked_softmax (certain)",
        "row 3 is masked everywhere",
        "keep one key per row",
        "op0, op1 ... op11 (12 operations)",
        "reproduced, the same bits",
        "[8, 16] float32, 0 ... 0.7, 16 not finite",
        str(bundle),
    ):
        assert words in result.stdout


def test_a_bundle_as_json_is_its_incident_json(nanwatch, make, home):
    bundle = make.bundle(home, make.incident())
    result = nanwatch("show", bundle, "--json")
    assert json.loads(result.stdout) == json.loads((bundle / "incident.json").read_text())


def test_an_unfinished_bundle_is_shown_as_one(nanwatch, make, home):
    result = nanwatch("show", make.bundle(home, make.incident(), finished=False))
    assert "unfinished" in result.stdout
    assert "masked_softmax" in result.stdout


def test_an_incident_without_origin_says_so(nanwatch, make, home):
    result = nanwatch("show", make.bundle(home, make.incident(origin=None, scope=("the batch was not kept",))))
    assert "origin  was not found" in result.stdout
    assert "the batch was not kept" in result.stdout


def test_an_altered_bundle_is_refused(nanwatch, make, home):
    bundle = make.bundle(home, make.incident())
    (bundle / "traceback.txt").write_text("the stAck")
    result = nanwatch("show", bundle)
    assert result.exit_code == 3
    assert "traceback.txt was altered" in result.stderr


def test_texts_of_a_bundle_cannot_steer_the_terminal(nanwatch, make, home):
    evil = make.incident()
    evil = make.incident(cause=type(evil.cause)("x\x1b[2Jy", "certain", ("[red]bold[/red] \x9b31m",)))
    result = nanwatch("show", make.bundle(home, evil))
    assert "\x1b[2J" not in result.stdout
    assert "\x9b" not in result.stdout
    assert "[red]bold[/red]" in result.stdout


def test_without_a_name_the_latest_run_is_shown(nanwatch, make, home):
    old = make.run(home / "nanwatch_runs", "20261124T000000Z-aaaaaa")
    make.run(home / "nanwatch_runs", "20261123T000000Z-bbbbbb", incidents=[make.incident()])
    for path in (old, *old.iterdir()):
        os.utime(path, (1, 1))
    result = nanwatch("show")
    assert "20261123T000000Z-bbbbbb" in result.stdout
    assert result.exit_code == 1


@pytest.mark.parametrize("how", ["name", "folder", "folder of runs"])
def test_a_run_is_found_by_name_and_by_folder(nanwatch, make, home, how):
    run = make.run(home / "nanwatch_runs", "abc", ledger={"counts": {"seen.steps": 40, "dropped.late": 0}})
    result = nanwatch("show", {"name": "abc", "folder": run, "folder of runs": home / "nanwatch_runs"}[how])
    assert result.exit_code == 0
    assert "ok" in result.stdout
    assert "Net, 1234 parameters" in result.stdout
    assert "counts.seen.steps 40" in result.stdout
    assert "dropped.late" not in result.stdout


def test_an_alert_is_shown_in_its_latest_state(nanwatch, make, home):
    first = [alert("a1", "firing", summary="too steep"), alert("a2", "firing", summary="still high")]
    run = make.run(home / "nanwatch_runs", alerts=[*first, alert("a1", "resolved", summary="too steep")])
    result = nanwatch("show", run)
    assert result.exit_code == 1
    assert "alerting" in result.stdout
    assert "resolved" in result.stdout
    assert result.stdout.count("too steep") == 1


def test_a_pending_alert_is_no_finding(nanwatch, make, home):
    result = nanwatch("show", make.run(home / "nanwatch_runs", alerts=[alert(state="pending")]))
    assert result.exit_code == 0


def test_a_run_as_json(nanwatch, make, home):
    run = make.run(home / "nanwatch_runs", incidents=[make.incident()], alerts=[alert()], ledger={"counts": {}})
    shown = json.loads(nanwatch("show", run, "--json").stdout)
    assert shown["status"] == "incident"
    assert shown["incidents"][0]["origin"]["line"] == 41
    assert shown["incidents"][0]["complete"] is True
    assert shown["alerts"][0]["rule"] == "exploding-gradient"
    assert shown["folder"] == str(run)


def test_files_that_are_torn_do_no_harm(nanwatch, make, home):
    run = make.run(home / "nanwatch_runs", alerts=[alert()])
    with (run / "alerts.jsonl").open("a") as f:
        f.write('{"id": "a9", "ru')
    (run / "ledger.json").write_text("{")
    make.bundle(run / "incidents", make.incident())
    (run / "incidents" / "i1" / "incident.json").write_text("{")
    result = nanwatch("show", run)
    assert "exploding-gradient" in result.stdout
    assert "cannot be trusted" in result.stdout


def test_incidents_in_writing_are_left_out(nanwatch, make, home):
    run = make.run(home / "nanwatch_runs")
    (run / "incidents" / "i7.tmp").mkdir(parents=True)
    assert nanwatch("show", run).exit_code == 0


def test_nothing_to_show_says_what_to_do(nanwatch, home):
    result = nanwatch("show")
    assert result.exit_code == 2
    assert "NANWATCH_DIR" in result.stderr


def test_an_unknown_name_says_where_it_was_looked_for(nanwatch, home):
    result = nanwatch("show", "nope")
    assert result.exit_code == 2
    assert "nope" in result.stderr


def test_a_wrong_setting_says_which(nanwatch, home, monkeypatch):
    monkeypatch.setenv("NANWATCH_MAX_INCIDENTS", "many")
    result = nanwatch("show")
    assert result.exit_code == 2
    assert "max_incidents" in result.stderr


def test_output_into_a_pipe_is_plain_and_unfolded(make, home):
    bundle = make.bundle(home, make.incident(cause=make.incident().cause.__class__("x", "certain", ("long " * 60,))))
    done = subprocess.run([sys.executable, "-m", "nanwatch", "show", str(bundle)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert str(bundle) in done.stdout

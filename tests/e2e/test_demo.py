"""`nanwatch demo` in an empty folder does the main job, and does it again."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timeout(400)


def demo(cwd, *words):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("NANWATCH_", "MLFLOW_"))}
    # What a user has set for other trainings must not reach the demo.
    elsewhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "NANWATCH_DIR": "/nowhere", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "nanwatch", "demo", *words],
        cwd=cwd,
        env={**inherited, **elsewhere},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_demo_finds_the_bug_and_delivers_it_to_every_place(tmp_path):
    first = demo(tmp_path, "--json")
    assert first.returncode == 0, first.stdout + first.stderr
    result = json.loads(first.stdout)
    assert result["problems"] == []

    origin = result["incident"]["origin"]
    line = (tmp_path / "nanwatch-demo" / "train_digits.py").read_text().splitlines()[origin["line"] - 1]
    assert "scores.softmax(dim=-1)" in line
    assert origin["module"] == "blocks.0.attention"
    assert origin["op"] == "aten::_softmax"
    assert result["incident"]["cause"]["label"] == "masked_softmax"
    assert result["incident"]["step"] == 271
    assert len(origin["batch_rows"]) == 1
    assert result["incident"]["replay"]["verdict"] == "reproduced"
    assert [one["body"]["type"] for one in result["deliveries"]].count("nanwatch.incident.created") == 1
    assert result["stored"]["status"] == "FINISHED"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nanwatch-demo"]

    again = demo(tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    for words in ("train_digits.py", "masked_softmax", "signature verified", "mlflow ui", "all there"):
        assert words in again.stdout

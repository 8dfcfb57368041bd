"""A finished bundle is whole, verified, the same when finished again, and says what stays on the machine."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from nanwatch.bundle.manifest import verify
from nanwatch.bundle.members import FINISHED_MEMBERS, TRAINER_MEMBERS
from nanwatch.bundle.reader import Bundle
from nanwatch.bundle.upload import UploadPolicy
from nanwatch.errors import BundleError
from nanwatch.report.finish import finish


def files(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_finish_makes_a_complete_bundle(gpt_folder, steps):
    incident = finish(gpt_folder, steps, UploadPolicy("MLflow"))
    assert verify(gpt_folder) == []
    bundle = Bundle.open(gpt_folder)
    assert bundle.is_complete
    assert bundle.incident == incident
    expected = set(TRAINER_MEMBERS + FINISHED_MEMBERS) - {"state/optimizer.safetensors"}
    assert set(bundle.members) == expected | {"evidence.json"}
    assert all((p.stat().st_mode & 0o777) == 0o600 for p in gpt_folder.rglob("*") if p.is_file())


def test_finishing_again_changes_nothing(gpt_folder, steps):
    finish(gpt_folder, steps)
    before = files(gpt_folder)
    finish(gpt_folder, None)
    assert files(gpt_folder) == before


def test_an_interrupted_finish_is_taken_up(gpt_folder, steps):
    finish(gpt_folder, steps)
    (gpt_folder / "manifest.json").unlink()
    (gpt_folder / "report.html").write_text("half a pa")
    (gpt_folder / "incident.md.part").write_text("half")
    finish(gpt_folder, None)
    assert verify(gpt_folder) == []
    assert "</html>" in (gpt_folder / "report.html").read_text()
    assert (gpt_folder / "history.parquet").exists()


def test_without_history_the_page_has_no_history(image_folder):
    finish(image_folder, None)
    assert verify(image_folder) == []
    assert "The steps before" not in (image_folder / "report.html").read_text()


def test_altered_evidence_is_not_finished(gpt_folder):
    (gpt_folder / "incident.json").write_text("{}")
    with pytest.raises(BundleError, match=r"cannot be finished.*incident\.json"):
        finish(gpt_folder, None)
    assert not (gpt_folder / "manifest.json").exists()


def test_values_that_may_not_leave_are_not_on_the_page(image_folder):
    finish(image_folder, None, UploadPolicy("MLflow", batch="stats"))
    page = (image_folder / "report.html").read_text()
    assert "upload_batch = stats" in page
    assert not re.search(r'<img src="data:image/png', page)
    assert "18.5" not in page
    manifest = json.loads((image_folder / "manifest.json").read_text())
    assert "upload_batch = stats" in manifest["members"]["preview.json"]["local"]
    (image_folder / "preview.json").unlink()
    assert verify(image_folder) == []


def test_a_malformed_graph_costs_the_graph_only(gpt_folder, rewrite):
    rewrite(gpt_folder, "graph.json", {"modules": [{"no": "id"}]})
    finish(gpt_folder, None)
    assert verify(gpt_folder) == []
    page = (gpt_folder / "report.html").read_text()
    assert "graph.json: modules.0.id: Field required" in page
    assert "The loss became NaN at step 812" in page
    assert not (gpt_folder / "graph.svg").exists()


def replay(folder, *arguments, cwd, **options):
    command = [sys.executable, *options.get("flags", ()), str(folder / "replay.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60)


def test_replay_script_tells_the_facts_and_verifies(gpt_folder, tmp_path):
    finish(gpt_folder, None)
    done = replay(gpt_folder, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "nan in the loss at step 812" in done.stdout
    assert "masked_softmax" in done.stdout
    assert "intact" in done.stdout
    (gpt_folder / "traceback.txt").write_text("other")
    done = replay(gpt_folder, "--model", "os:getcwd", cwd=tmp_path)
    assert done.returncode == 1
    assert "traceback.txt" in done.stderr


def test_replay_script_without_nanwatch_says_what_to_do(gpt_folder, tmp_path):
    finish(gpt_folder, None)
    done = replay(gpt_folder, cwd=tmp_path, flags=["-S"])
    assert done.returncode == 3
    assert "pip install nanwatch" in done.stderr
    assert "step 812" in done.stdout


def test_replay_script_imports_nothing_from_the_bundle(gpt_folder, tmp_path):
    finish(gpt_folder, None)
    (gpt_folder / "nanwatch.py").write_text("print('imported from the bundle')")
    for cwd in (tmp_path, gpt_folder):
        assert "imported from the bundle" not in replay(gpt_folder, cwd=cwd).stdout


def test_replay_script_passes_the_verdict_of_a_wrong_model_on(gpt_folder, tmp_path):
    finish(gpt_folder, None)
    done = replay(gpt_folder, "--model", "nothing_like_this:factory", cwd=tmp_path)
    assert done.returncode == 3
    assert "nothing_like_this" in done.stderr

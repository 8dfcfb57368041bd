"""Whatever happens to a finished bundle is seen."""

from __future__ import annotations

import json
import os

import pytest

from nanwatch.bundle.manifest import read_json, verify, verify_evidence, write_evidence, write_manifest
from nanwatch.errors import BundleError


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "i1"
    (folder / "batch").mkdir(parents=True)
    (folder / "incident.json").write_text("{}")
    (folder / "batch/tree.json").write_text('{"a": 1}')
    write_evidence(folder, "i1")
    (folder / "report.html").write_text("<p>")
    write_manifest(folder, "i1")
    return folder


def forge(folder, change, name="manifest.json"):
    data = json.loads((folder / name).read_text())
    change(data)
    (folder / name).write_text(json.dumps(data))


def test_an_untouched_bundle_has_no_problems(bundle):
    assert verify(bundle) == []
    assert verify_evidence(bundle) == []
    members = json.loads((bundle / "manifest.json").read_text())["members"]
    assert set(members) == {"incident.json", "batch/tree.json", "evidence.json", "report.html"}
    assert members["report.html"]["media_type"] == "text/html"


def test_writing_the_manifest_again_changes_nothing(bundle):
    before = (bundle / "manifest.json").read_bytes()
    write_manifest(bundle, "i1")
    assert (bundle / "manifest.json").read_bytes() == before


def test_altered_bytes_are_seen_though_the_size_is_the_same(bundle):
    (bundle / "batch/tree.json").write_text('{"a": 2}')
    assert verify(bundle) == ["batch/tree.json was altered: its SHA-256 is not the one in manifest.json"]
    assert verify_evidence(bundle)


def test_missing_grown_and_added_files_are_seen(bundle):
    (bundle / "report.html").unlink()
    (bundle / "incident.json").write_text("{ }")
    (bundle / "extra.py").write_text("")
    problems = " ".join(verify(bundle))
    assert "report.html is missing" in problems
    assert "incident.json has 3 bytes" in problems
    assert "extra.py is not in manifest.json" in problems


def test_a_member_that_stayed_on_the_training_machine_may_be_absent(bundle):
    write_manifest(bundle, "i1", {"batch/tree.json": "upload_batch = none"})
    assert verify(bundle) == []
    (bundle / "batch/tree.json").unlink()
    assert verify(bundle) == []


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../b", "a//b", ".x", "a\\b", "a\nb", "x" * 300, "a/b/c/d/e"]
)
def test_names_that_leave_the_folder_are_refused(bundle, name):
    forge(bundle, lambda d: d["members"].update({name: {"sha256": "0" * 64, "bytes": 0}}))
    assert any("does not stay inside" in p for p in verify(bundle))


def test_links_and_special_files_are_refused_before_anything_is_read(bundle, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("{}")
    (bundle / "incident.json").unlink()
    (bundle / "incident.json").symlink_to(secret)
    assert verify(bundle) == ["'incident.json' is a link or a special file; a bundle holds plain files only"]
    (bundle / "incident.json").unlink()
    os.mkfifo(bundle / "incident.json")
    assert "special file" in verify(bundle)[0]


def test_a_linked_folder_is_refused(bundle, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (bundle / "state").symlink_to(tmp_path / "elsewhere")
    assert "is a link" in verify(bundle)[0]
    (tmp_path / "link").symlink_to(bundle)
    assert "is not a folder" in verify(tmp_path / "link")[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"schema": "nanwatch.manifest/2", "incident": "x", "members": {}}',
        '{"schema": "nanwatch.manifest/1", "schema": "nanwatch.manifest/1", "incident": "x", "members": {}}',
        '{"schema": "nanwatch.manifest/1", "incident": "x", "members": {"a": {"sha256": "zz", "bytes": 1}}}',
        '{"schema": "nanwatch.manifest/1", "incident": "x", "members": {"a": {"sha256": "", "bytes": -1}}}',
        "[" * 100_000,
    ],
)
def test_a_manifest_that_is_not_understood_is_a_problem_not_a_crash(bundle, text):
    (bundle / "manifest.json").write_text(text)
    assert len(verify(bundle)) == 1


def test_an_oversized_json_member_is_not_parsed(bundle):
    with (bundle / "incident.json").open("wb") as f:
        f.truncate(65 * 1024 * 1024)
    with pytest.raises(BundleError, match="larger than"):
        read_json(bundle / "incident.json")


def test_a_missing_folder_is_a_problem(tmp_path):
    assert "is not a folder" in verify(tmp_path / "nothing")[0]

"""The trainer's part appears whole or not at all, and only its owner can read it."""

from __future__ import annotations

import json
import stat

import pytest
import torch

from nanwatch.bundle.manifest import verify_evidence
from nanwatch.bundle.writer import EvidenceWriter
from nanwatch.errors import BundleError


def write(tmp_path, incident_id="i1"):
    writer = EvidenceWriter(tmp_path / "incidents", incident_id)
    writer.json("incident.json", {"loss": float("nan"), "limits": (1, float("-inf"))})
    writer.text("traceback.txt", "line \udcff")
    described = writer.tensors("batch/tensors", {"x": torch.ones(3)})
    writer.json("batch/tree.json", {"schema": "nanwatch.batch/1", **described})
    return writer


def test_commit_makes_a_verified_private_folder(tmp_path):
    folder = write(tmp_path).commit()
    assert folder == tmp_path / "incidents" / "i1"
    assert verify_evidence(folder) == []
    assert not (tmp_path / "incidents" / "i1.tmp").exists()
    modes = {p.relative_to(folder).as_posix(): stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*")}
    assert modes == {
        "batch": 0o700,
        "batch/tensors.safetensors": 0o600,
        "batch/tree.json": 0o600,
        "evidence.json": 0o600,
        "incident.json": 0o600,
        "traceback.txt": 0o600,
    }
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_nonfinite_numbers_become_strings(tmp_path):
    folder = write(tmp_path).commit()
    assert json.loads((folder / "incident.json").read_text()) == {"loss": "NaN", "limits": [1, "-Infinity"]}


def test_before_commit_there_is_only_the_tmp_folder(tmp_path):
    writer = write(tmp_path)
    assert [p.name for p in (tmp_path / "incidents").iterdir()] == ["i1.tmp"]
    writer.abandon()
    assert list((tmp_path / "incidents").iterdir()) == []


def test_no_file_is_written_for_values_that_are_not_kept(tmp_path):
    writer = EvidenceWriter(tmp_path, "i1")
    assert writer.tensors("batch/tensors", torch.ones(3), mode="stats")["captured"] == "stats"
    assert not (writer.folder / "batch/tensors.safetensors").exists()


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "notes.json", "manifest.json", "evidence.json", "report.html", ""]
)
def test_only_known_members_are_written(tmp_path, name):
    with pytest.raises(BundleError, match="no member that the trainer writes"):
        EvidenceWriter(tmp_path, "i1").json(name, {})


@pytest.mark.parametrize("bad", ["", "..", "a/b", ".hidden", "x.tmp", "a" * 200, "a\n"])
def test_an_id_that_is_no_folder_name_is_refused(tmp_path, bad):
    with pytest.raises(BundleError, match="cannot name"):
        EvidenceWriter(tmp_path, bad)


def test_an_id_is_used_once(tmp_path):
    write(tmp_path)
    with pytest.raises(BundleError, match="exists already"):
        write(tmp_path)
    EvidenceWriter(tmp_path / "incidents", "i2").commit()
    with pytest.raises(BundleError, match="exists already"):
        EvidenceWriter(tmp_path / "incidents", "i2")

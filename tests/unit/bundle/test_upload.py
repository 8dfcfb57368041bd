"""What may not leave the machine is named, with the setting that keeps it."""

from __future__ import annotations

import pytest
import torch

from nanwatch.bundle.upload import UploadPolicy
from nanwatch.bundle.writer import EvidenceWriter


@pytest.fixture
def folder(tmp_path):
    writer = EvidenceWriter(tmp_path, "i1")
    batch = writer.tensors("batch/tensors", torch.ones(4))
    writer.json("batch/tree.json", {"schema": "nanwatch.batch/1", **batch})
    writer.tensors("state/parameters", torch.ones(1024, 1024))
    writer.json("preview.json", {})
    return writer.commit()


def test_everything_goes_by_default(folder):
    assert UploadPolicy("MLflow").stays(folder) == {}


def test_without_destination_nothing_is_held_back(folder):
    policy = UploadPolicy(None, batch="none", parameters="none", max_mib=0)
    assert policy.stays(folder) == {}
    assert policy.rows_may_leave


def test_each_setting_holds_back_its_members(folder):
    assert set(UploadPolicy("MLflow", batch="none").stays(folder)) == {
        "preview.json",
        "batch/tree.json",
        "batch/tensors.safetensors",
    }
    batch = {"batch/tree.json", "batch/tensors.safetensors"}
    assert set(UploadPolicy("MLflow", batch="stats").stays(folder)) == {"preview.json"} | batch
    assert set(UploadPolicy("MLflow", batch="rows").stays(folder)) == batch
    assert set(UploadPolicy("MLflow", parameters="none").stays(folder)) == {"state/parameters.safetensors"}
    assert UploadPolicy("MLflow", max_mib=3).stays(folder) == {
        "state/parameters.safetensors": "4 MiB, more than max_upload_mib = 3"
    }

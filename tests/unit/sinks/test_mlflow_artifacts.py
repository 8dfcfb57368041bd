"""What of a bundle leaves the machine, and in which order."""

import json

import pytest

from nanwatch.bundle.manifest import write_manifest
from nanwatch.bundle.upload import UploadPolicy
from nanwatch.errors import SinkError
from nanwatch.sinks.mlflow_artifacts import plan

MEMBERS = {
    "history.parquet": 50, "incident.json": 10, "report.html": 2_000, "traceback.txt": 5, "incident.md": 5,
    "batch/tree.json": 0, "batch/tensors.safetensors": 100, "state/parameters.safetensors": 3_000_000,
    "state/rng.safetensors": 20,
}  # fmt: skip
FULL = UploadPolicy("MLflow")


@pytest.fixture
def bundle(tmp_path):
    def write(captured="full", local=None):
        for name, size in MEMBERS.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x" * size)
        (tmp_path / "batch/tree.json").write_text(json.dumps({"captured": captured}))
        write_manifest(tmp_path, "inc", local)
        return tmp_path

    return write


def test_what_people_read_goes_first_and_the_manifest_last(bundle):
    planned = plan(bundle(), FULL)
    assert planned.members[:4] == ("incident.json", "report.html", "traceback.txt", "incident.md")
    assert planned.members[-1] == "manifest.json"
    assert set(planned.members) == {*MEMBERS, "manifest.json"}
    assert planned.withheld == {}


@pytest.mark.parametrize(
    ("captured", "allowed", "goes"),
    [("full", "full", True), ("full", "rows", False), ("rows", "rows", True), ("rows", "stats", False),
     ("stats", "none", False)],
)  # fmt: skip
def test_no_more_of_the_batch_leaves_than_is_allowed(bundle, captured, allowed, goes):
    planned = plan(bundle(captured), UploadPolicy("MLflow", batch=allowed))
    assert ("batch/tensors.safetensors" in planned.members) is goes
    assert ("batch/tensors.safetensors" in planned.withheld) is not goes


def test_what_the_manifest_keeps_local_stays(bundle):
    planned = plan(bundle(local={"state/rng.safetensors": "because"}), FULL)
    assert planned.withheld == {"state/rng.safetensors": "because"}
    assert "state/rng.safetensors" not in planned.members


def test_parameters_stay_when_they_must(bundle):
    planned = plan(bundle(), UploadPolicy("MLflow", parameters="none"))
    assert list(planned.withheld) == ["state/parameters.safetensors"]
    assert "state/rng.safetensors" in planned.members


def test_a_large_member_stays_and_says_why(bundle):
    planned = plan(bundle(), UploadPolicy("MLflow", max_mib=1))
    assert "max_upload_mib = 1" in planned.withheld["state/parameters.safetensors"]


def test_nothing_outside_the_bundle_leaves(bundle, tmp_path):
    folder = bundle()
    manifest = json.loads((folder / "manifest.json").read_text())
    entry = manifest["members"]["incident.json"]
    manifest["members"] = dict.fromkeys(("../x", "/etc/passwd", "link", "gone", "incident.json"), entry)
    (folder / "link").symlink_to("/etc/passwd")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    planned = plan(folder, FULL)
    assert planned.members == ("incident.json", "manifest.json")
    assert set(planned.withheld) == {"../x", "/etc/passwd", "link", "gone"}


def test_a_bundle_without_manifest_is_refused(tmp_path):
    with pytest.raises(SinkError, match="manifest"):
        plan(tmp_path, FULL)

"""A bundle is opened only when it is what its index says."""

from __future__ import annotations

import json

import pytest

from nanwatch.bundle.manifest import write_manifest
from nanwatch.bundle.reader import Bundle
from nanwatch.bundle.writer import EvidenceWriter
from nanwatch.errors import BundleError
from nanwatch.records import Cause, Incident, Replay, Seen

INCIDENT = Incident(
    id="i1", kind="nonfinite", time="2026-01-01T00:00:00Z", rank=0, world_size=1, step=3, step_total=3, micro_step=0,
    action="record", seen=Seen("loss", "nan"), origin=None, path=(), cause=Cause("unknown", "possible"),
    replay=Replay("reproduced", 1, bitwise=True, seconds=0.1),
)  # fmt: skip


def evidence(tmp_path, incident=None):
    writer = EvidenceWriter(tmp_path, "i1")
    writer.json("incident.json", INCIDENT.to_json() if incident is None else incident)
    writer.json("preview.json", {"rows": []})
    return writer.commit()


def test_an_unfinished_bundle_opens_and_says_so(tmp_path):
    bundle = Bundle.open(evidence(tmp_path))
    assert not bundle.is_complete
    assert bundle.incident == INCIDENT


def test_a_finished_bundle_opens_by_its_manifest(tmp_path):
    folder = evidence(tmp_path)
    write_manifest(folder, "i1", {"preview.json": "upload_batch = none"})
    (folder / "preview.json").unlink()
    bundle = Bundle.open(str(folder))
    assert bundle.is_complete
    assert bundle.has("incident.json")
    assert not bundle.has("preview.json")
    with pytest.raises(BundleError, match=r"preview\.json is not here: upload_batch = none"):
        bundle.json("preview.json")
    with pytest.raises(BundleError, match="has no"):
        bundle.path("../i1/incident.json")


def test_an_altered_bundle_does_not_open(tmp_path):
    folder = evidence(tmp_path)
    (folder / "incident.json").write_text("{}")
    with pytest.raises(BundleError, match=r"cannot be trusted.*incident\.json"):
        Bundle.open(folder)


def test_a_folder_without_index_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"neither manifest\.json nor evidence\.json"):
        Bundle.open(tmp_path)


@pytest.mark.parametrize(
    "change", [{"schema": "nanwatch.incident/2"}, {"seen": None}, {"path": 3}, {"cause": {"why": 1}}]
)
def test_an_incident_that_is_not_understood_is_named(tmp_path, change):
    bundle = Bundle.open(evidence(tmp_path, json.loads(json.dumps(INCIDENT.to_json() | change))))
    with pytest.raises(BundleError, match=r"incident\.json"):
        _ = bundle.incident


def test_an_incident_that_is_not_an_object_is_named(tmp_path):
    with pytest.raises(BundleError, match="schema 'list'"):
        _ = Bundle.open(evidence(tmp_path, [1])).incident

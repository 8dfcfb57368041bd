import json

import pytest

from nanwatch.agent.incident import IncidentFinisher
from nanwatch.agent.timeline_rows import rows
from nanwatch.bundle.upload import UploadPolicy
from nanwatch.errors import BundleError
from nanwatch.records import Incident
from nanwatch.testing import example_incident, example_step


@pytest.fixture
def incidents(tmp_path):
    return tmp_path / "incidents"


def evidence(incidents, incident_id="one"):
    """What the trainer leaves: facts and evidence.json, no manifest."""
    folder = example_incident(incidents, incident_id).folder
    (folder / "manifest.json").rename(folder / "evidence.json")
    return folder


def finisher(tmp_path):
    asked = []

    def history(step):
        asked.append(step)
        return rows([example_step(step)], {})

    def finish(folder, table, upload):
        assert upload.destination == "MLflow at http://h"
        assert table.column("step").to_pylist() == [3, 3, 3]
        (folder / "manifest.json").write_text("{}")
        return Incident.from_json(json.loads((folder / "incident.json").read_text()))

    return IncidentFinisher(tmp_path, history, lambda: UploadPolicy("MLflow at http://h"), finish), asked


def test_a_bundle_is_finished_with_the_history_up_to_its_step(tmp_path, incidents):
    folder = evidence(incidents)
    made, asked = finisher(tmp_path)
    finished = made.finish("one")
    assert finished.folder == folder
    assert finished.incident.id == "one"
    assert asked == [3]


def test_each_incident_is_handed_on_once(tmp_path, incidents):
    evidence(incidents)
    made, _ = finisher(tmp_path)
    assert made.finish("one") is not None
    assert made.finish("one") is None


def test_a_bundle_that_is_complete_is_handed_on_as_it_is(tmp_path, incidents):
    folder = example_incident(incidents, "one").folder
    made, asked = finisher(tmp_path)
    assert made.finish("one").folder == folder
    assert asked == []


def test_what_an_earlier_agent_left_is_found_and_torn_ones_are_told_apart(tmp_path, incidents):
    evidence(incidents, "one")
    evidence(incidents, "two")
    example_incident(incidents, "three")
    evidence(incidents, "four").rename(incidents / "four.tmp")
    made, _ = finisher(tmp_path)
    made.finish("one")
    assert made.unfinished() == ["two"]
    assert made.torn() == ["four.tmp"]


@pytest.mark.parametrize("incident_id", ["../one", "", "a/b", "x.tmp"])
def test_an_id_that_leads_elsewhere_is_refused(tmp_path, incident_id):
    made, _ = finisher(tmp_path)
    with pytest.raises(BundleError, match="is no incident's id"):
        made.finish(incident_id)


def test_a_missing_folder_and_unreadable_facts_are_said(tmp_path, incidents):
    made, _ = finisher(tmp_path)
    with pytest.raises(BundleError, match="missing"):
        made.finish("one")
    (evidence(incidents, "two") / "incident.json").write_text("{")
    with pytest.raises(BundleError, match="cannot be read"):
        made.finish("two")

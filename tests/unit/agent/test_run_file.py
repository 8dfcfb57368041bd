import json

import pytest

from nanwatch.agent.json_file import write_json
from nanwatch.agent.run_file import add_mlflow, load_run
from nanwatch.errors import SetupError
from nanwatch.records import RunRecord

RUN = RunRecord("run", 0, 1, 17, "host", 1.0, ({"name": "", "type": "Net"},), {"torch": "2"}, "a.py", {"mlflow": True})


def test_the_trainer_s_record_comes_back_also_with_what_others_added(tmp_path):
    write_json(tmp_path / "run.json", RUN)
    add_mlflow(tmp_path, {"run_id": "abc", "tracking_uri": "http://h", "experiment_id": "1"})
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["mlflow"]["run_id"] == "abc"
    assert load_run(tmp_path) == RUN
    before = (tmp_path / "run.json").stat().st_ino
    add_mlflow(tmp_path, content["mlflow"])
    assert (tmp_path / "run.json").stat().st_ino == before


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"models": 3}', '{"models": []}'])
def test_a_folder_that_is_no_run_is_told_so(tmp_path, text):
    if text is not None:
        (tmp_path / "run.json").write_text(text)
    with pytest.raises(SetupError, match="is this a run's folder"):
        load_run(tmp_path)

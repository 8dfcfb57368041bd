import json
import math

import pytest

from nanwatch.agent import json_file
from nanwatch.agent.json_file import write_json


def test_it_is_private_and_holds_no_bare_nan(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"x": math.inf, "y": (1, 2)})
    assert json.loads(path.read_text()) == {"x": "Infinity", "y": [1, 2]}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_keeps_the_old_file_and_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json_file.os, "rename", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, 2)
    assert path.read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]

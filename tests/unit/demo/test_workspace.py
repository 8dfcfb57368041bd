import os

import pytest

from nanwatch.demo.workspace import SCRIPT, prepare
from nanwatch.errors import SetupError


def test_a_new_folder_gets_the_script_and_its_bug(tmp_path):
    workspace = prepare(tmp_path / "new" / "demo")
    line = workspace.script.read_text().splitlines()[workspace.planted_line - 1]
    assert ".softmax(" in line
    assert workspace.folder.is_absolute()
    assert workspace.runs() == set()


def test_the_folder_of_an_earlier_demo_is_used_again(tmp_path):
    first = prepare(tmp_path / "demo")
    (first.folder / "nanwatch_runs" / "a-run").mkdir(parents=True)
    again = prepare(tmp_path / "demo")
    assert [run.name for run in again.runs()] == ["a-run"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(SetupError, match="--dir"):
        prepare(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_edited_script_is_not_overwritten(tmp_path):
    script = prepare(tmp_path / "demo").script
    script.write_text("print('mine')")
    with pytest.raises(SetupError, match="rename"):
        prepare(tmp_path / "demo")
    assert script.read_text() == "print('mine')"


def test_a_file_in_the_way_says_what_to_do(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(SetupError, match="--dir"):
        prepare(tmp_path / "demo")


def test_the_script_names_nanwatch_in_two_lines_of_code(tmp_path):
    lines = prepare(tmp_path / "demo").script.read_text().splitlines()
    assert [line.strip() for line in lines if "nanwatch" in line][-2:] == ["import nanwatch", "nanwatch.attach(model)"]
    assert SCRIPT in os.listdir(tmp_path / "demo")

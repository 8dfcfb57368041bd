import math

import pytest

from nanwatch.errors import RuleError
from nanwatch.rules.yaml_source import read_yaml


def read(tmp_path, text):
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-1.5E+2", -150.0),
        (".5", 0.5),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("no", "no"),
        ("on", "on"),
        ("12:30:45", "12:30:45"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("'1'", "1"),
        ("-.inf", -math.inf),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(tmp_path, text, value):
    got = read(tmp_path, f"x: {text}\n").data["x"]
    assert got == value
    assert type(got) is type(value)


def test_nan_is_a_number(tmp_path):
    assert math.isnan(read(tmp_path, "x: .nan\n").data["x"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", r"r\.yaml:3:1: 'a' is given twice, first in line 1"),
        ("a: &x 1\n", r"r\.yaml:1:4: anchors"),
        ("a: *x\n", r"r\.yaml:1:4: anchors"),
        ("a: 1\n---\nb: 2\n", r"r\.yaml:2:1: but found another document"),
        ("a: [1\n", r"r\.yaml:2:1: "),
        ("a: !!python/object/apply:os.system ['x']\n", r"r\.yaml:1:4: tags \(!\) are not allowed"),
        ("? [1, 2]\n: 3\n", r"r\.yaml:1:3: a key has to be a word"),
        ("[" * 5000, r"nested deeper than 20"),
        (b"\xff\xfe\x00", "not UTF-8"),
        ("a: \x07\n", "r.yaml"),
        ("# " + "x" * 300_000, "larger than 256 KiB"),
    ],
)
def test_what_is_refused_is_refused_with_its_place(tmp_path, text, says):
    with pytest.raises(RuleError, match=says):
        read(tmp_path, text)


def test_no_object_is_ever_made_from_a_tag(tmp_path):
    marker = tmp_path / "made"
    with pytest.raises(RuleError):
        read(tmp_path, f"a: !!python/object/apply:pathlib.Path.touch [{marker}]\nb: !!binary aGk=\n")
    assert not marker.exists()


def test_the_nearest_known_place_is_shown(tmp_path):
    source = read(tmp_path, "a:\n  - b: 1\n")
    assert source.at(("a", 0, "b")).endswith("r.yaml:2:8")
    assert source.at(("a", 0, "b"), key=True).endswith("r.yaml:2:5")
    assert source.at(("a", 0, "missing", 3)).endswith("r.yaml:2:5")

"""The shape of the house: names, sizes, and what a wheel carries."""

import statistics
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "nanwatch"
FILES = sorted(PACKAGE.rglob("*.py"))
MEANINGLESS = {"utils", "util", "common", "helpers", "helper", "manager", "base", "misc"}


def test_no_room_or_file_has_a_name_that_says_nothing():
    names = {part for path in FILES for part in path.relative_to(PACKAGE).with_suffix("").parts}
    assert not names & MEANINGLESS


def test_files_are_short():
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: n for name, n in lines.items() if n > 400}
    assert statistics.median(n for name, n in lines.items() if not name.endswith("__init__.py")) < 160


def test_tests_mirror_the_rooms():
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir()}
    mirrored = {path.name for path in (ROOT / "tests" / "unit").iterdir() if path.is_dir() and path.name[0] != "_"}
    assert mirrored <= rooms, "a test folder without a room"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        yield archive


def test_the_wheel_carries_what_is_needed_without_the_checkout(wheel):
    names = set(wheel.namelist())
    assert {"nanwatch/py.typed", "nanwatch/demo/train_digits.py"} <= names
    in_checkout = {p.relative_to(ROOT).as_posix() for p in (PACKAGE / "report" / "templates").rglob("*") if p.is_file()}
    assert in_checkout
    assert in_checkout <= names


def test_the_wheel_carries_nothing_else(wheel):
    strays = [name for name in wheel.namelist() if not name.startswith(("nanwatch/", "nanwatch-"))]
    assert not strays


def test_the_wheel_starts_the_command(wheel):
    (entry_points,) = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "nanwatch = nanwatch.__main__:main" in wheel.read(entry_points).decode()

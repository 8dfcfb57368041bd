"""The pages say what the code does, as far as a machine can tell."""

import re
from pathlib import Path

import pytest

from nanwatch.cli.root import app
from nanwatch.settings import KEYWORD_ONLY, SWITCHES, Settings, variable

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_variable_and_default(name):
    rows = [line for line in (DOCS / "configuration.md").read_text().splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1
    assert f"`{Settings.model_fields[name].default}`" in rows[0]
    if name not in KEYWORD_ONLY:
        assert f"`{variable(name)}`" in rows[0]


def test_no_setting_is_documented_that_does_not_exist():
    rows = re.findall(
        r"^\| `(\w+)` \| (?:`NANWATCH_|`MLFLOW_|\|)", (DOCS / "configuration.md").read_text(), re.MULTILINE
    )
    assert set(rows) == set(Settings.model_fields)


@pytest.mark.parametrize("switch", sorted(SWITCHES))
def test_every_switch_is_documented(switch):
    assert f"`{switch}`" in (DOCS / "configuration.md").read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_index_leads_to_every_page():
    targets = re.findall(r"\]\(([^)#]+)", (DOCS / "index.md").read_text())
    assert {page.name for page in DOCS.glob("*.md")} - {"index.md"} <= set(targets)


def test_every_verb_of_the_command_line_is_in_the_readme():
    for command in app.registered_commands:
        assert f"nanwatch {command.callback.__name__}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_the_pages_exist(path):
    verbs = {command.callback.__name__ for command in app.registered_commands}
    blocks = "\n".join(re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"^nanwatch ([a-z]+)", blocks, re.MULTILINE))
    assert named <= verbs

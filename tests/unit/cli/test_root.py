import re
from importlib.metadata import version


def test_the_version_is_the_installed_one(nanwatch):
    result = nanwatch("--version")
    assert result.exit_code == 0
    assert result.stdout.strip() == f"nanwatch {version('nanwatch')}"


def test_help_lists_every_verb(nanwatch):
    result = nanwatch("--help")
    assert result.exit_code == 0
    for verb in ("demo", "show", "pull", "doctor"):
        assert re.search(rf"\b{verb}\b", result.stdout)


def test_a_wrong_call_is_exit_code_2(nanwatch):
    assert nanwatch("show", "--nope").exit_code == 2
    assert nanwatch("shwo").exit_code == 2
    assert nanwatch("pull").exit_code == 2

import textwrap

import pytest

from nanwatch.errors import RuleError
from nanwatch.rules import Rule, families, load_rules
from nanwatch.rules.families import family, known_types


def test_every_family_is_a_rule_of_its_own_type_with_the_documented_headings():
    for name in known_types():
        model = family(name)
        assert issubclass(model, Rule)
        for heading in ("Watches:", "Why it matters:", "Fires when:", "Known problems:", "Options:", "Source:"):
            assert heading in (model.__doc__ or ""), f"{name} says nothing about {heading}"


def test_an_unknown_type_is_a_rule_error():
    with pytest.raises(RuleError, match="unknown rule type 'nope'"):
        family("nope")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A distribution with two rule families: a good one and one that cannot be imported."""
    (tmp_path / "always_rule.py").write_text(
        textwrap.dedent("""
        from typing import Literal
        import numpy as np
        from nanwatch.rules.rule import Finding, Reading, Rule

        class Always(Rule):
            type: Literal["always"] = "always"
            warmup_steps: int = 0

            def judge(self):
                return Judge()

        class Judge:
            def look(self, moment):
                one = np.ones(1)
                return Reading(("",), one > 0, one > 0, one, one)

            def explain(self, reading, k, moment):
                return Finding("nothing", "always")

            def snapshot(self):
                return None

            def restore(self, state):
                pass
        """)
    )
    info = tmp_path / "always-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: always\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[nanwatch.rules]\nalways = always_rule:Always\nbroken = not_there:X\nspike = always_rule:Always\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    families._places.cache_clear()
    yield
    families._places.cache_clear()


@pytest.mark.usefixtures("installed")
def test_a_plugin_is_found_by_its_entry_point(run, a_step):
    rules = load_rules([{"type": "always"}])
    assert [a.type for a in run(list(rules), [a_step(0)])] == ["always"]


@pytest.mark.usefixtures("installed")
def test_a_broken_plugin_breaks_only_who_asks_for_it():
    assert load_rules([{"type": "spike", "metric": "loss"}])[0].__class__.__module__ == "nanwatch.rules.spike"
    with pytest.raises(RuleError, match=r"'broken' \(not_there:X\) cannot be loaded: ModuleNotFoundError"):
        load_rules([{"type": "broken"}])

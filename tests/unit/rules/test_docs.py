"""docs/rules.md says what the rules are, as far as a machine can tell."""

import inspect
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

from nanwatch.rules import Rule, RuleEngine, default_rules, load_rules
from nanwatch.rules.families import family, known_types
from nanwatch.rules.series import SCALARS, VECTORS

PAGE = (Path(__file__).parents[3] / "docs" / "rules.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", known_types())
def test_each_family_is_described_in_the_words_of_its_docstring(name):
    section = " ".join(PAGE.partition(f"### {name}\n")[2].partition("\n###")[0].split())
    for paragraph in (inspect.getdoc(family(name)) or "").split("\n\n"):
        head, _, rest = " ".join(paragraph.split()).partition(": ")
        if head != "Options":
            assert (rest or head) in section


@pytest.mark.parametrize("name", known_types())
def test_every_option_is_listed_with_its_default(name):
    model = family(name)
    section = PAGE.partition(f"### {name}\n")[2].partition("\n###")[0]
    for option, field in model.model_fields.items():
        if option not in Rule.model_fields:
            default = "required" if field.is_required() else f"`{field.default}`"
            assert f"| `{option}` | {default} | {field.description} |" in section
        elif option not in {"type", "id"} and field.default != Rule.model_fields[option].default:
            assert f"`{option}: {field.default}`" in section


def test_common_fields_and_metrics_are_listed():
    for option, field in Rule.model_fields.items():
        assert option in {"type", "id"} or f"| `{option}` | `{field.default}` | {field.description} |" in PAGE
    for metric in (*SCALARS, *VECTORS):
        assert f"`{metric}`" in PAGE.partition("## What can be watched")[2].partition("## ")[0]


def test_default_rules_are_listed():
    for rule in default_rules():
        assert re.search(rf"^\| `{rule.id}` \|.*\| {rule.severity} \|$", PAGE, re.MULTILINE)


def test_the_file_in_the_page_is_a_valid_one(tmp_path):
    (example,) = blocks("yaml")
    path = tmp_path / "nanwatch.yaml"
    path.write_text(example)
    assert [rule.type for rule in load_rules(path)] == ["nonfinite", "threshold", "threshold", "heartbeat"]


def test_the_family_in_the_page_works(run, a_step):
    code = next(block for block in blocks("python") if "class Plateau" in block)
    names = {"__name__": "plateau"}
    exec(compile(textwrap.dedent(code), "docs/rules.md", "exec"), names)
    rule = names["Plateau"](patience_steps=10, warmup_steps=0)
    alerts = run(RuleEngine([rule], strict=True), [a_step(s, loss=float(np.exp(-min(s, 50)))) for s in range(80)])
    assert [(a.state, a.step, a.cause) for a in alerts] == [("firing", 61, "plateau")]

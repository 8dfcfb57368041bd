from __future__ import annotations

import dataclasses

from nanwatch.report.markdown import markdown


def test_the_short_form_holds_what_is_needed_to_act(build):
    text = markdown(build.gpt_incident())
    for part in (
        "# The loss became NaN at step 812",
        "masked_softmax",
        "model.py:28",
        "F.softmax",
        "1. Leave at least one",
        "not a matter of precision",
        "Only rank 0",
    ):
        assert part in text
    assert len(text) < 6000


def test_hostile_text_is_no_markup(build):
    base = build.gpt_incident()
    origin = dataclasses.replace(base.origin, code="x = '```'\n# heading", file="a`b|c", function="<img src=x>")
    cause = dataclasses.replace(base.cause, why=("<script>x</script> [a](javascript:b)\n# heading",))
    text = markdown(build.gpt_incident(origin=origin, cause=cause))
    assert "<script>" not in text.replace("\\<", "")
    assert "\n# heading" not in text.split("## Why")[1]
    assert text.count("```") == 2


def test_an_incident_without_origin_is_told(build):
    assert "could not be found" in markdown(build.gpt_incident(origin=None, path=()))

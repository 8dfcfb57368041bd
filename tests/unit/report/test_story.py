from __future__ import annotations

from dataclasses import replace

import pytest

from nanwatch.records import Seen, TensorSummary
from nanwatch.report import story
from nanwatch.report.offenders import offender, rows_text, tensor_text

HEADLINES = [
    (Seen("loss", "nan"), {}, "The loss became NaN at step 812"),
    (Seen("loss", "inf"), {}, "The loss became infinite at step 812"),
    (Seen("loss", "nan", backward=False), {}, "The loss became NaN at step 812, and no backward was called on it"),
    (Seen("grad", "nan", ("fc.weight",), 1), {"phase": "backward"}, "The gradient of fc.weight became NaN at step 812"),
    (Seen("grad", "inf", ("a", "b"), 7), {"phase": "backward"}, "7 gradients became infinite at step 812"),
    (Seen("parameter", "nan", ("fc.w",), 1), {"phase": "optimizer"}, "The parameter fc.w became NaN at step 812"),
    (Seen("parameter", "inf", ("bn.var",), 1), {"phase": "forward"}, "The buffer bn.var became infinite at step 812"),
    (Seen("parameter", "nan", ("bn.var",), 1), {"phase": "params"}, "The buffer bn.var became NaN at step 812"),
    (Seen("output", "nan", (), 1), {"reason": "ValueError"}, "The program raised ValueError at step 812, after a NaN"),
]


@pytest.mark.parametrize(("seen", "more", "says"), HEADLINES, ids=[h for *_, h in HEADLINES])
def test_the_headline_says_what_was_seen(build, seen, more, says):
    incident = build.gpt_incident(seen=seen, reason=more.get("reason"))
    origin = replace(incident.origin, phase=more.get("phase", "forward"))
    assert story.headline(replace(incident, origin=origin)) == says


ORIGINS = [
    ({"phase": "forward"}, "softmax made the first NaN in blocks.7.attn (model.py:28)."),
    ({"phase": "loss", "module": None}, "softmax made the first NaN in the loss code (model.py:28)."),
    ({"phase": "backward"}, "softmax made the first NaN in the backward pass of blocks.7.attn (model.py:28)."),
    (
        {"phase": "optimizer", "op": "aten::addcdiv", "param": "fc.weight"},
        "addcdiv made the first NaN in the optimizer's step on fc.weight (model.py:28).",
    ),
    (
        {"phase": "data", "param": "x", "batch_rows": (3,), "batch_features": (2,)},
        "The NaN came in with the batch in x, row 3 (sample 1841), feature 2. It is first used at model.py:28.",
    ),
    (
        {"phase": "params", "param": "fc.weight", "value": "inf"},
        "The infinity was in fc.weight before the step began. It is first used at model.py:28.",
    ),
]


@pytest.mark.parametrize(("changes", "says"), ORIGINS, ids=[c["phase"] for c, _ in ORIGINS])
def test_the_origin_in_one_sentence(build, changes, says):
    incident = build.gpt_incident(sample_ids=(7, 8, 9, 1841))
    assert story.origin_sentence(replace(incident, origin=replace(incident.origin, **changes))) == says


def test_a_buffer_that_nobody_saw_change(build):
    incident = build.gpt_incident(seen=Seen("parameter", "nan", ("bn.var",), 1))
    origin = replace(incident.origin, phase="params", op=None, param="bn.var", file=None)
    said = story.origin_sentence(replace(incident, origin=origin))
    assert said == "bn.var was changed outside of what was recorded: where the NaN came from is not known."


def test_what_the_program_decided_is_not_told_as_ours(build):
    assert story.action_text(build.gpt_incident()) == "the update was skipped"
    assert story.action_text(build.gpt_incident(seen=Seen("loss", "nan", backward=False))) == "recorded"
    assert story.seen_text(build.gpt_incident(seen=Seen("output", "nan"), reason="KeyError")) == "KeyError"
    assert story.seen_text(build.gpt_incident(seen=Seen("grad", "nan", ("a",), 3))) == "gradient of a and 2 more"


def test_rows_columns_and_samples(build):
    base = build.gpt_incident()
    origin = replace(base.origin, batch_rows=(1, 2), batch_features=(0, 4))
    assert rows_text(replace(base, origin=origin)) == "rows 1, 2, features 0, 4"
    known = replace(base, origin=origin, sample_ids=("a.png", "b.png", "c.png"))
    assert rows_text(known) == "rows 1 (sample b.png), 2 (sample c.png), features 0, 4"
    many = replace(base, origin=replace(origin, batch_rows=tuple(range(30)), batch_features=()))
    assert rows_text(many) == "rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more"
    assert rows_text(replace(base, origin=None)) == ""


def test_a_tensor_in_words():
    x = TensorSummary("self", (8, 16), "float32", 0.0, 0.7, 0, (3, 0), 0.0)
    assert tensor_text(x) == "self [8, 16] float32, 0 ... 0.7; element [3, 0] is 0"
    bad = TensorSummary("x", (4,), "float16", None, None, 4, (1,), None)
    assert tensor_text(bad) == "x [4] float16, nothing finite, 4 not finite; element [1] is NaN"
    assert tensor_text(TensorSummary("eps", (), "float64", 1e-8, 1e-8, 0)) == "eps scalar float64, 1e-8"
    assert tensor_text(TensorSummary("m", (2,), "bool", None, None, 0)) == "m [2] bool"
    below = replace(x, min=-1.5, value=float("-inf"))
    assert tensor_text(below).endswith("-1.5 ... 0.7; element [3, 0] is -inf")


def test_of_the_operands_the_one_at_fault():
    def at(name, value):
        return TensorSummary(name, (2,), "float32", -1.0, 1.0, 0, (0,), value)

    assert offender([at("self", 3.0), at("other", 0.0)]).name == "other"
    assert offender([at("self", 0.0), at("other", 0.0)]).name == "other"
    assert offender([at("self", 3.0), at("other", 1e30)]).name == "other"
    assert offender([at("self", None), at("other", 0.0)]).name == "self"
    assert offender([TensorSummary("self", (2,), "float32", -1.0, 1.0, 0)]) is None

import json

import pytest

from nanwatch.errors import RuleError
from nanwatch.rules import Heartbeat, NonFinite, Spike, Threshold, default_rules, dump_rules, load_dumped, load_rules

GOOD = """\
# what this team wants to know
version: 1
defaults: {warmup_steps: 10, severity: info}
rules:
  - type: nonfinite
    severity: critical
  - id: exploding-gradient
    type: threshold
    metric: grad_norm
    above: 1e2
    for_steps: 3
  - {type: spike, metric: no, window: 0o310}
  - {type: heartbeat, timeout_s: 60}
"""


def mistakes(tmp_path, text):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(RuleError) as e:
        load_rules(path)
    return str(e.value).replace(str(tmp_path) + "/", "").split("\n")


def test_a_file_becomes_rules_with_its_defaults(tmp_path):
    path = tmp_path / "rules.yaml"
    path.write_text(GOOD)
    assert load_rules(str(path)) == (
        NonFinite(severity="critical", warmup_steps=10),
        Threshold(
            id="exploding-gradient", metric="grad_norm", above=100.0, for_steps=3, warmup_steps=10, severity="info"
        ),
        Spike(metric="no", window=200, warmup_steps=10, severity="info"),
        Heartbeat(timeout_s=60, warmup_steps=10, severity="info"),
    )


def test_nothing_means_the_defaults_and_an_empty_list_means_no_rules():
    assert load_rules(None) == default_rules()
    assert load_rules([]) == ()


def test_models_and_dicts_can_be_mixed():
    spike = Spike(metric="loss")
    assert load_rules([spike, {"type": "heartbeat", "timeout_s": 5}]) == (spike, Heartbeat(timeout_s=5))


def test_rules_survive_json():
    rules = (*default_rules(), Threshold(metric="val_loss", above=0.5, summary="{metric}"))
    assert load_dumped(json.loads(json.dumps(dump_rules(rules), allow_nan=False))) == rules


def test_an_unknown_key_is_shown_with_line_column_and_suggestion(tmp_path):
    text = GOOD.replace("above: 1e2", "abov: 1e2")
    assert mistakes(tmp_path, text) == [
        "rules.yaml:10:5: rules.1.abov: Extra inputs are not permitted; did you mean 'above'?",
    ]


def test_all_mistakes_are_told_at_once(tmp_path):
    text = GOOD.replace("for_steps: 3", "for_steps: 0").replace("type: heartbeat", "type: hartbeat")
    first, second = mistakes(tmp_path, text)
    assert first == "rules.yaml:11:16: rules.1.for_steps: Input should be greater than or equal to 1 (got '0')"
    assert second.startswith(
        "rules.yaml:13:12: rules.3.type: unknown rule type 'hartbeat'; did you mean 'heartbeat'?; known: "
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "rules.yaml: version: Field required"),
        ("version: 2\nrules: []\n", "rules.yaml:1:10: version: Input should be 1 (got '2')"),
        ("version: 1\nruls: []\n", "rules.yaml:2:1: ruls: Extra inputs are not permitted; did you mean 'rules'?"),
        ("version: 1\nrules:\n  - 3\n", "rules.yaml:3:5: rules.0: Input should be a valid dictionary (got '3')"),
        ("version: 1\nrules:\n  - metric: loss\n", "rules.yaml:3:5: rules.0: 'type' is missing; known: "),
        ("version: 1\ndefaults: {warmup: 3}\nrules: []\n", "rules.yaml:2:12: defaults.warmup: Extra inputs"),
        ("version: 1\nrules:\n  - {type: threshold, metric: x, above: .nan}\n", "Input should be a finite number"),
        (
            "version: 1\nrules:\n  - {type: threshold, metric: x}\n",
            "rules.yaml:3:5: rules.0: give 'above', 'below' or both",
        ),
        ("version: 1\nrules:\n  - {type: threshold, above: 1}\n", "rules.yaml:3:5: rules.0.metric: Field required"),
        ("version: 1\nrules:\n  - {type: heartbeat, id: A B}\n", "rules.yaml:3:27: rules.0.id: String should match"),
        ("version: 1\nrules:\n  - {type: heartbeat, summary: '{x.__class__}'}\n", "{x.__class__} is not known"),
    ],
)
def test_each_mistake_has_its_place(tmp_path, text, says):
    got = mistakes(tmp_path, text)
    assert says in got[0]


def test_two_rules_with_one_id_are_refused(tmp_path):
    text = "version: 1\nrules:\n  - {type: spike, metric: loss}\n  - {type: spike, metric: loss}\n"
    assert mistakes(tmp_path, text) == [
        "rules.yaml:4:5: rules.1: the id 'spike-loss' is that of rules.0; give it its own"
    ]


def test_mistakes_in_python_have_no_file():
    with pytest.raises(RuleError, match=r"^rules.0.abov: Extra inputs are not permitted; did you mean 'above'\?$"):
        load_rules([{"type": "threshold", "metric": "x", "above": 1, "abov": 1}])
    with pytest.raises(RuleError, match=r"write rules=\[\.\.\.\]"):
        load_rules(Spike(metric="loss"))


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(RuleError, match=r"none\.yaml cannot be read: No such file"):
        load_rules(tmp_path / "none.yaml")

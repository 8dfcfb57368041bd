"""Whatever a user calls a value, MLflow takes the key, and no two names share one."""

import posixpath
import re

from hypothesis import given
from hypothesis import strategies as st

from nanwatch.sinks.mlflow_names import MAX_KEY_LENGTH, KeyNames

ACCEPTED = re.compile(r"^[/\w.\- :]*$")
"""As in mlflow/utils/validation.py."""


@given(st.lists(st.text(max_size=300), unique=True, max_size=20))
def test_every_name_becomes_a_key_of_its_own_that_mlflow_accepts(names):
    keys = KeyNames()
    made = {name: keys.key("nanwatch/log", name) for name in names}
    assert len({key.casefold() for key in made.values()}) == len(names)
    for name, key in made.items():
        assert ACCEPTED.fullmatch(key)
        assert posixpath.normpath(key) == key
        assert len(key) <= MAX_KEY_LENGTH
        assert key.count("/") == 2
        assert keys.changed.get(key, key.removeprefix("nanwatch/log/")) == name


def test_a_legal_name_stays_as_it_is():
    keys = KeyNames()
    assert keys.key("nanwatch/log", "val_loss: é 2.0-x") == "nanwatch/log/val_loss: é 2.0-x"
    assert keys.changed == {}


def test_a_slash_opens_no_section():
    keys = KeyNames()
    assert keys.key("nanwatch/log", "val/loss") == "nanwatch/log/val.loss"
    assert keys.changed == {"nanwatch/log/val.loss": "val/loss"}


def test_the_same_name_always_has_the_same_key():
    keys = KeyNames()
    first, other = keys.key("s", "a#b"), keys.key("s", "a@b")
    assert first != other
    assert keys.key("s", "a#b") == first


def test_long_names_that_begin_alike_stay_apart():
    keys = KeyNames()
    assert keys.key("s", "x" * 400 + "1") != keys.key("s", "x" * 400 + "2")

"""Which rule families there are. Built-in ones and those of plugins are named in the same way: `module:class`."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from nanwatch.errors import RuleError
from nanwatch.rules.rule import Rule

ENTRY_POINT_GROUP = "nanwatch.rules"

_BUILT_IN = {
    "nonfinite": "nanwatch.rules.nonfinite:NonFinite",
    "threshold": "nanwatch.rules.threshold:Threshold",
    "spike": "nanwatch.rules.spike:Spike",
    "heartbeat": "nanwatch.rules.heartbeat:Heartbeat",
}


def known_types() -> tuple[str, ...]:
    """The `type` of every family that is installed; built-in ones first."""
    return tuple(_places())


def family(name: str) -> type[Rule]:
    """The model of a family.

    Raises: RuleError when there is none of this type, or when its plugin cannot be loaded.
    """
    place = _places().get(name)
    if place is None:
        raise RuleError(f"unknown rule type {name!r}")
    module, _, attribute = place.partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as e:
        raise RuleError(f"the rule family {name!r} ({place}) cannot be loaded: {type(e).__name__}: {e}") from e
    if not (isinstance(found, type) and issubclass(found, Rule)):
        raise RuleError(f"the rule family {name!r} ({place}) is not a subclass of nanwatch.rules.Rule")
    if found.model_fields["type"].default != name:
        raise RuleError(f"the rule family {name!r} ({place}) has another type: {found.model_fields['type'].default!r}")
    return found


@cache
def _places() -> dict[str, str]:
    # A plugin cannot take a built-in name: what a rule file means must not hang on what else is installed.
    return {ep.name: ep.value for ep in entry_points(group=ENTRY_POINT_GROUP)} | _BUILT_IN

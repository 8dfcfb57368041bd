"""Rules from a YAML file, from Python, or the defaults; and rules as JSON for the agent."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nanwatch.errors import RuleError
from nanwatch.rules.defaults import default_rules
from nanwatch.rules.families import family, known_types
from nanwatch.rules.rule import CooldownSteps, ForSteps, KeepFiringSteps, Rule, RuleSeverity, WarmupSteps
from nanwatch.rules.yaml_source import Path_, Source, read_yaml

_MAX_SHOWN = 10
_NO_FILE = Source("", None)  # rules written in Python


class Defaults(BaseModel):
    """What holds for every rule of a file that does not say otherwise."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    severity: RuleSeverity | None = None
    for_steps: ForSteps | None = None
    keep_firing_steps: KeepFiringSteps | None = None
    cooldown_steps: CooldownSteps | None = None
    warmup_steps: WarmupSteps | None = None
    enabled: bool | None = None


class RuleFile(BaseModel):
    """A rule file as a whole; each of `rules` is then validated by its family."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    defaults: Defaults = Defaults()
    rules: tuple[dict[str, Any], ...]


def load_rules(source: str | Path | Sequence[Rule | Mapping[str, Any]] | None) -> tuple[Rule, ...]:
    """The rules of a YAML file or a list; None: the defaults. An empty list means no rules.

    Raises: RuleError with every mistake, one a line: `rules.yaml:11:5: rules.1.abov: ...; did you mean 'above'?`.
    """
    if source is None:
        return default_rules()
    if isinstance(source, str | Path):
        return _from_file(read_yaml(Path(source)))
    if isinstance(source, Rule | Mapping) or not isinstance(source, Sequence):
        raise RuleError(
            f"rules has to be a YAML file or a list of rules, not {type(source).__name__}: write rules=[...]"
        )
    return _validated(list(source), _NO_FILE, {})


def dump_rules(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """The rules as JSON-ready dicts, for `load_dumped`."""
    return [rule.model_dump(mode="json") for rule in rules]


def load_dumped(dumped: Sequence[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """The rules behind `dump_rules`.

    Raises: RuleError as `load_rules`; for example when a plugin is missing here.
    """
    return _validated(list(dumped), _NO_FILE, {})


def _from_file(source: Source) -> tuple[Rule, ...]:
    try:
        file = RuleFile.model_validate(source.data if source.data is not None else {})
    except ValidationError as e:
        raise RuleError("\n".join(_messages(e, (), source, RuleFile))) from None
    defaults = file.defaults.model_dump(exclude_none=True)
    return _validated(list(file.rules), source, defaults)


def _validated(items: list[Any], source: Source, defaults: Mapping[str, Any]) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    mistakes: list[str] = []
    first_with_id: dict[str, int] = {}
    for i, item in enumerate(items):
        path: Path_ = ("rules", i)
        try:
            rule = item if isinstance(item, Rule) else _one(item, path, source, defaults)
        except RuleError as e:
            mistakes.append(str(e))
            continue
        if rule.id in first_with_id:
            mistakes.append(
                f"{_place(source, path)}: the id {rule.id!r} is that of rules.{first_with_id[rule.id]}; give it its own"
            )
        first_with_id.setdefault(rule.id, i)
        rules.append(rule)
    if mistakes:
        lines = [line for mistake in mistakes for line in mistake.split("\n")]
        more = [f"... and {len(lines) - _MAX_SHOWN} more"] if len(lines) > _MAX_SHOWN else []
        raise RuleError("\n".join(lines[:_MAX_SHOWN] + more))
    return tuple(rules)


def _one(item: Any, path: Path_, source: Source, defaults: Mapping[str, Any]) -> Rule:
    if not isinstance(item, Mapping):
        raise RuleError(f"{_place(source, path)}: expected a rule or a dict with 'type', got {type(item).__name__}")
    name = item.get("type")
    if not isinstance(name, str):
        raise RuleError(f"{_place(source, path)}: 'type' is missing; known: {', '.join(known_types())}")
    try:
        model = family(name)
    except RuleError as e:
        known = ", ".join(known_types())
        raise RuleError(
            f"{_place(source, (*path, 'type'))}: {e}{_did_you_mean(name, known_types())}; known: {known}"
        ) from e
    try:
        return model.model_validate({**defaults, **item})
    except ValidationError as e:
        raise RuleError("\n".join(_messages(e, path, source, model))) from None


def _messages(error: ValidationError, path: Path_, source: Source, model: type[BaseModel]) -> list[str]:
    out = []
    # An unknown key is often the reason for a missing one, so it comes first.
    for e in sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden"):
        where: Path_ = (*path, *e["loc"])
        hint = ""
        if e["type"] == "extra_forbidden":
            fields = Defaults.model_fields if where[:1] == ("defaults",) else model.model_fields
            hint = _did_you_mean(str(where[-1]), tuple(fields))
        got = f" (got {str(e['input'])[:60]!r})" if e["type"] not in {"extra_forbidden", "missing"} and e["loc"] else ""
        text = e["msg"].removeprefix("Value error, ")
        out.append(f"{_place(source, where, key=e['type'] == 'extra_forbidden')}: {text}{got}{hint}")
    return out


def _place(source: Source, path: Path_, *, key: bool = False) -> str:
    dotted = ".".join(map(str, path))
    if source is _NO_FILE:
        return dotted
    return f"{source.at(path, key=key)}: {dotted}" if dotted else source.at(path, key=key)


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""

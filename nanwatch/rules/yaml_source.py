"""Rule files: YAML 1.2 scalars, a position for every value, and nothing that YAML can be abused for.

PyYAML reads YAML 1.1, where `1e-3` is a string, `no` is false and `12:30` is 750: the core schema of YAML 1.2 is used
instead, https://yaml.org/spec/1.2.2/#103-core-schema. Refused: duplicate keys, anchors, aliases, a second document.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nanwatch.errors import RuleError

MAX_BYTES = 256 * 1024
_MAX_DEPTH = 20
_TAG = "tag:yaml.org,2002:"

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """A parsed file and where each part of it stands, as 1-based (line, column)."""

    name: str
    data: Any
    keys: dict[Path_, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path_, tuple[int, int]] = field(default_factory=dict)

    def at(self, path: Path_, *, key: bool = False) -> str:
        """`file:line:column` of a part, or of the nearest part around it that is there."""
        for end in range(len(path), -1, -1):
            places = (self.keys, self.values) if key or end < len(path) else (self.values, self.keys)
            for place in places:
                if path[:end] in place:
                    line, column = place[path[:end]]
                    return f"{self.name}:{line}:{column}"
        return self.name


def read_yaml(path: Path) -> Source:
    """The content of a rule file.

    Raises: RuleError with file:line:column where the file is not what it has to be.
    """
    name = str(path)
    try:
        with path.open("rb") as f:
            raw = f.read(MAX_BYTES + 1)
    except OSError as e:
        raise RuleError(f"the rule file {name} cannot be read: {e.strerror}") from e
    if len(raw) > MAX_BYTES:
        raise RuleError(f"{name}: larger than {MAX_BYTES // 1024} KiB, which is no rule file")
    try:
        loader = _Loader(raw.decode("utf-8"))
        root = loader.get_single_node()
    except UnicodeDecodeError as e:
        raise RuleError(f"{name}: not UTF-8 text (byte {e.start})") from e
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        place = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        raise RuleError(f"{place}: {e.problem or e.context}") from e
    except yaml.YAMLError as e:
        raise RuleError(f"{name}: {e}") from e
    source = Source(name, None)
    data = None if root is None else _build(root, (), source)
    return Source(name, data, source.keys, source.values)


class _Loader(yaml.SafeLoader):
    """Composes nodes only; `_build` makes the values."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own interface
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(
                problem="anchors (&) and aliases (*) are not allowed", problem_mark=event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.MarkedYAMLError(problem="tags (!) are not allowed", problem_mark=event.start_mark)
        if self.depth >= _MAX_DEPTH:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {_MAX_DEPTH}", problem_mark=event.start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
)
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(
        _TAG + _name, re.compile(f"(?:{_pattern})$"), ["", *_first] if _name == "null" else [*_first]
    )


def _build(node: yaml.Node, path: Path_, source: Source) -> Any:
    source.values[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_build(child, (*path, i), source) for i, child in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, source)
    kind, text = node.tag.removeprefix(_TAG), str(node.value)
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, 0) if text[:2] in {"0o", "0x"} else int(text)
    if kind == "float":
        return float(
            text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").lower().replace(".nan", "nan")
        )
    return text


def _mapping(node: yaml.MappingNode, path: Path_, source: Source) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        place = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            raise RuleError(f"{source.name}:{place[0]}:{place[1]}: a key has to be a word")
        key = str(key_node.value)
        if key in out:
            line = source.keys[*path, key][0]
            raise RuleError(f"{source.name}:{place[0]}:{place[1]}: {key!r} is given twice, first in line {line}")
        source.keys[*path, key] = place
        out[key] = _build(value_node, (*path, key), source)
    return out

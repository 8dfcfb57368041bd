"""Containers of any kind as JSON and back, without running anything that the JSON names.

A node is a dict with a `kind`; docs/bundle-format.md lists them. Tensors are somebody else's leaves: see tensors.py.
"""

from __future__ import annotations

import base64
import dataclasses
import math
import sys
from collections import UserDict, deque, namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal, Protocol

from nanwatch.errors import BundleError

Capture = Literal["none", "stats", "rows", "full"]
Node = dict[str, Any]
Resolve = Callable[[str], "type | None"]

MAX_DEPTH = 64
MAX_NODES = 50_000
_MAX_BYTES = 64 * 1024
_REPR_CHARS = 200
_SEQUENCES: dict[type, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "frozenset", deque: "deque"}
_BUILDERS: dict[str, Callable[[list[Any]], Any]] = {
    "list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": deque,
}  # fmt: skip
_MAX_INT_BITS = 1024


@dataclass(frozen=True)
class Missing:
    """Stands for a value that is not in the bundle. `text`: its repr where it could not be kept, else why."""

    type: str
    text: str


class Leaves(Protocol):
    """Whoever knows tensors."""

    def owns(self, value: Any) -> bool: ...

    def describe(self, value: Any, path: str) -> Node: ...


class Fields(UserDict[str, Any]):
    """A mapping or object whose class is not known here: reads like both."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["data"][name]
        except KeyError:
            raise AttributeError(name) from None


class Describer:
    """Turns values into nodes. Never raises: what cannot be kept becomes type and repr.

    In every `mode` but full, text and bytes are withheld (their length is told); `none` withholds numbers too; `rows`
    keeps of a list with `batch_size` elements only those in `rows`.
    """

    def __init__(self, leaves: Leaves, mode: Capture, rows: Sequence[int] = (), batch_size: int | None = None) -> None:
        self._leaves = leaves
        self._mode = mode
        self._rows = frozenset(rows)
        self._batch_size = batch_size
        self._parents: list[int] = []
        self._count = 0

    def describe(self, value: Any, path: str = "", *, chosen: bool = False) -> Node:
        """The node of `value`; `chosen`: it belongs to a row that is kept."""
        self._count += 1
        if self._count > MAX_NODES:
            return _opaque(value, f"not kept: more than {MAX_NODES} values")
        if len(self._parents) > MAX_DEPTH or id(value) in self._parents:
            return _opaque(value, "not kept: it holds itself, or is nested too deeply")
        try:
            if self._leaves.owns(value):
                return self._leaves.describe(value, path)
            if isinstance(value, str | bytes | bytearray | int | float | complex | type(None)):
                return self._plain(value, chosen)
            self._parents.append(id(value))
            try:
                return self._container(value, path, chosen)
            finally:
                self._parents.pop()
        except Exception as e:
            return _opaque(value, f"not kept: {type(e).__name__}: {e}")

    def _plain(self, value: Any, chosen: bool) -> Node:
        if type(value) not in {str, bytes, bytearray, int, bool, float, complex, type(None)}:
            return _opaque(value) if self._mode == "full" else _withheld(value)
        is_text = isinstance(value, str | bytes | bytearray)
        hidden = self._mode == "none" or (is_text and self._mode != "full")
        if hidden and not chosen and value is not None and not isinstance(value, bool):
            return _withheld(value)
        if isinstance(value, bytes | bytearray):
            if len(value) > _MAX_BYTES:
                return _withheld(value)
            return {"kind": "bytes", "base64": base64.b64encode(value).decode()}
        if isinstance(value, complex):
            return {"kind": "complex", "real": value.real.hex(), "imag": value.imag.hex()}
        if isinstance(value, float) and not math.isfinite(value):
            return {"kind": "float", "value": "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"}
        if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
            return _opaque(value, "not kept: an integer of more than 1024 bits")
        return {"kind": "value", "value": value}

    def _container(self, value: Any, path: str, chosen: bool) -> Node:
        if isinstance(value, Mapping):
            return self._mapping(value, path, chosen)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            items = [self.describe(v, _join(path, f), chosen=chosen) for f, v in zip(value._fields, value, strict=True)]
            return {"kind": "namedtuple", "class": _name(value), "fields": list(value._fields), "items": items}
        for cls, kind in _SEQUENCES.items():
            if isinstance(value, cls):
                return {"kind": kind, "items": self._items(value, path, chosen)}
        if isinstance(value, slice | range):
            numbers = [value.start, value.stop, value.step]
            return {"kind": type(value).__name__, "items": [self.describe(n, path, chosen=True) for n in numbers]}
        if value is ...:
            return {"kind": "ellipsis"}
        fields = self._fields(value)
        if fields is None:
            return _opaque(value) if self._mode == "full" else _withheld(value)
        described = [[k, self.describe(v, _join(path, k), chosen=chosen)] for k, v in fields.items()]
        return {"kind": "object", "class": _name(value), "items": described}

    def _items(self, value: Any, path: str, chosen: bool) -> list[Any]:
        values = list(value)
        by_row = self._mode == "rows" and len(values) == self._batch_size
        if self._mode == "full" and len(values) > 8 and all(_is_plain(v) for v in values):
            # Token lists and the like: a number instead of a node each, and no limit on their count.
            return values
        return [
            _withheld(v)
            if by_row and i not in self._rows and not self._leaves.owns(v)
            else self.describe(v, _join(path, i), chosen=chosen or (by_row and i in self._rows))
            for i, v in enumerate(values)
        ]

    def _mapping(self, value: Mapping[Any, Any], path: str, chosen: bool) -> Node:
        items = [
            [
                k if type(k) is str else self.describe(k, path, chosen=chosen),
                self.describe(v, _join(path, k), chosen=chosen),
            ]
            for k, v in value.items()
        ]
        return {"kind": "dict", "class": None if type(value) is dict else _name(value), "items": items}

    def _fields(self, value: Any) -> dict[str, Any] | None:
        """The fields of an object that is a record in all but name; None for anything with a life of its own."""
        if isinstance(value, type):
            return None
        if dataclasses.is_dataclass(value):
            return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}
        attrs = getattr(type(value), "__attrs_attrs__", None)
        if attrs is not None:
            return {a.name: getattr(value, a.name) for a in attrs}
        inner = getattr(value, "__dict__", None)
        if not isinstance(inner, dict) or callable(value):
            return None
        holds_tensors = isinstance(value, SimpleNamespace) or any(self._leaves.owns(v) for v in inner.values())
        return {str(k): v for k, v in inner.items()} if holds_tensors else None


def restore(node: Any, leaf: Callable[[Node], Any], resolve: Resolve | None = None) -> Any:
    """The value behind a node, or a JSON structure with every node in it replaced by its value.

    `leaf` is asked for kinds that are not containers. `resolve` may give the class behind a name; without it a
    namedtuple comes back as another one with the same fields, a mapping or object as `Fields`. Nothing is imported.

    Raises: BundleError for a node that no writer makes.
    """
    try:
        return _restore(node, leaf, resolve)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, IndexError) as e:
        raise BundleError(f"malformed tree: {type(e).__name__}: {e}") from e


def already_imported(name: str) -> type | None:
    """The class behind `module:qualified.name` if its module is loaded: a `resolve` that imports nothing."""
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, type) else None


def child(node: Node, *steps: str | int) -> Node:
    """The node below `node`: `child(tree, "entries", 0, "args")`. Raises: KeyError or IndexError."""
    for step in steps:
        items = node["items"]
        node = items[step] if isinstance(step, int) else dict(items)[step]
    return node


def _restore(node: Any, leaf: Callable[[Node], Any], resolve: Resolve | None) -> Any:
    if isinstance(node, list):
        return [_restore(n, leaf, resolve) for n in node]
    if not isinstance(node, dict):
        return node
    if "kind" not in node:
        return {k: _restore(v, leaf, resolve) for k, v in node.items()}
    kind = node["kind"]
    if kind == "value":
        return node["value"]
    if kind == "float":
        return float(node["value"])
    if kind == "complex":
        return complex(float.fromhex(node["real"]), float.fromhex(node["imag"]))
    if kind == "bytes":
        return base64.b64decode(node["base64"], validate=True)
    if kind == "opaque":
        return Missing(node["type"], node["repr"])
    if kind == "withheld":
        return Missing(node["type"], "withheld")
    if kind == "ellipsis":
        return ...
    if kind in _BUILDERS:
        return _BUILDERS[kind]([_restore(n, leaf, resolve) for n in node["items"]])
    if kind in {"slice", "range"}:
        return {"slice": slice, "range": range}[kind](*[_restore(n, leaf, resolve) for n in node["items"]])
    if kind in {"dict", "namedtuple", "object"}:
        return _rebuild(node, leaf, resolve)
    return leaf(node)


def _rebuild(node: Node, leaf: Callable[[Node], Any], resolve: Resolve | None) -> Any:
    cls = resolve(node["class"]) if resolve is not None and node.get("class") else None
    if node["kind"] == "namedtuple":
        items = tuple(_restore(n, leaf, resolve) for n in node["items"])
        fits = cls is not None and issubclass(cls, tuple) and getattr(cls, "_fields", None) == tuple(node["fields"])
        named: Any = cls if fits else namedtuple("Fields", list(node["fields"]), rename=True)  # noqa: PYI024 - the fields are data
        return tuple.__new__(named, items)
    pairs = {_key(_restore(k, leaf, resolve)): _restore(v, leaf, resolve) for k, v in node["items"]}
    if node["kind"] == "dict":
        if node["class"] is None:
            return pairs
        return cls(pairs) if cls is not None and issubclass(cls, Mapping) else Fields(pairs)  # type: ignore[call-arg]
    if cls is None:
        return Fields(pairs)
    made: Any = object.__new__(cls)
    for name, value in pairs.items():
        object.__setattr__(made, name, value)
    return made


def _key(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _opaque(value: Any, note: str = "") -> Node:
    try:
        text = repr(value)[:_REPR_CHARS] if not note else note[:_REPR_CHARS]
    except Exception as e:
        text = f"<its repr raised {type(e).__name__}>"
    return {"kind": "opaque", "type": _name(value), "repr": text.encode("utf-8", "replace").decode("utf-8")}


def _is_plain(value: Any) -> bool:
    return value is None or type(value) in {str, bool} or (type(value) is int and value.bit_length() <= _MAX_INT_BITS)


def _withheld(value: Any) -> Node:
    length = len(value) if isinstance(value, str | bytes | bytearray) else None
    return {"kind": "withheld", "type": _name(value), "length": length}


def _name(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _join(path: str, step: Any) -> str:
    text = step if isinstance(step, str) else str(step) if isinstance(step, int) else "?"
    return f"{path}.{text}" if path else text

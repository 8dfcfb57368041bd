"""The recorded program as JSON and back: `program.json`. What makes the step run again in another process.

Only functions of torch are named and looked up again; nothing in the file is ever evaluated.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import nn

from nanwatch.errors import BundleError
from nanwatch.postmortem.replay import Plan, leaves_of
from nanwatch.probes.ambient import Rng
from nanwatch.probes.buffers import Slot
from nanwatch.probes.flight_recorder import Ambient, Attribute, Call, Leaf, MappingToken, Ref, Segment, TupleToken
from nanwatch.records import json_ready, number

SCHEMA = "nanwatch.program/1"


def data_leaves(made: Plan, parameters: Mapping[int, str]) -> dict[int, torch.Tensor]:
    """Every tensor that came from outside and is no parameter, once, in the order of its first use."""
    return {id(t): t for c in made.calls for t in leaves_of(c) if id(t) not in parameters}


def encode_program(made: Plan, parameters: Mapping[int, str]) -> dict[str, Any]:
    """The calls in their order. Tensors are numbers of `batch/tree.json`'s leaves, outputs of calls, or names."""
    leaves = {id_: i for i, id_ in enumerate(data_leaves(made, parameters))}
    return {
        "schema": SCHEMA,
        "entries": list(dict.fromkeys(c.name for c in made.calls if c.module is not None)),
        "operations": [_encode_call(c, leaves, parameters) for c in made.calls],
        "roots": [[r.index, [_encode_key(k) for k in r.path]] for r in made.roots],
        "batch_size": made.batch_size,
        "changed_in_place": made.changed_in_place,
    }


def decode_program(
    program: Mapping[str, Any],
    leaves: Sequence[torch.Tensor],
    state: Mapping[str, torch.Tensor],
    modules: Mapping[str, nn.Module],
    rng: Mapping[str, Mapping[str, torch.Tensor]],
) -> Plan:
    """The plan behind a `program.json`, with the tensors and modules of this process.

    Raises: BundleError for an unknown schema, a function that is not torch's, or a module that the model lacks.
    """
    if program.get("schema") != SCHEMA:
        raise BundleError(f"program.json has the schema {program.get('schema')!r}; this version reads {SCHEMA}")
    calls = [_decode_call(c, leaves, state, modules, rng) for c in program["operations"]]
    roots = [Ref(index, tuple(_decode_key(k) for k in path)) for index, path in program["roots"]]
    return Plan(calls, roots, [None] * len(roots), [Segment(0, 0, calls)])


def buffers_before(made: Plan, now: Mapping[str, tuple[Slot, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Every buffer as it was before the step: the copy where one was taken, else as it is."""
    saved = made.buffers_before
    return {name: saved.get(slot, buffer).detach() for name, (slot, buffer) in now.items()}


def generator_states(made: Plan) -> dict[str, dict[str, torch.Tensor]]:
    """Number of the call -> the generators' states in front of it."""
    out: dict[str, dict[str, torch.Tensor]] = {}
    for call in made.calls:
        if isinstance(call.rng, Rng):
            out[str(call.index)] = {"cpu": call.rng.cpu, **{f"cuda:{i}": s for i, s in call.rng.device.items()}}
    return out


def function_name(call: Call) -> str:
    """Dotted name of a recorded function, e.g. `torch.nn.functional.cross_entropy`, `torch.Tensor.sum`."""
    function = call.function
    if call.opaque or isinstance(getattr(function, "__self__", None), type):
        # Not torch's own: the program's, by where it is defined.
        owner = getattr(function, "__self__", None)
        named = owner if isinstance(owner, type) else function
        suffix = f".{function.__name__}" if isinstance(owner, type) and function is not None else ""
        return f"{getattr(named, '__module__', '?')}:{getattr(named, '__qualname__', type(named).__name__)}{suffix}"
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":
        return f"torch.Tensor.{getattr(getattr(function, '__self__', None), '__name__', name)}"
    if id(function) in _methods():
        return f"torch.Tensor.{_methods()[id(function)]}"
    if getattr(function, "__objclass__", None) is not None:
        return f"torch.Tensor.{name}"
    return f"{getattr(function, '__module__', None) or 'torch'}.{name}"


@functools.cache
def _methods() -> dict[int, str]:
    """Every method of a tensor by identity: what `**` calls is a function of another name in another module."""
    return {id(getattr(torch.Tensor, name)): name for name in dir(torch.Tensor)}


def find_function(name: str) -> Any:
    """The function behind a dotted name of torch.

    Raises: BundleError for a name outside of torch or one that this torch does not have.
    """
    if ":" in name:
        return _own_function(name)
    module, _, last = name.rpartition(".")
    if module.split(".")[0] != "torch" or not all(part.isidentifier() for part in name.split(".")):
        raise BundleError(f"the program calls {name!r:.100}, which is not a function of torch")
    if module == "torch.Tensor":
        found = getattr(torch.Tensor, last, None)
        if found is not None and not callable(found):
            return found.__get__
    else:
        try:
            found = getattr(import_module(module), last, None)
        except ImportError:
            found = (
                getattr(torch._C._VariableFunctions, last, None) if module == "torch._VariableFunctionsClass" else None
            )
    if found is None:
        raise BundleError(f"this torch has no {name!r:.100}; the bundle was made with another version")
    return found


def _own_function(name: str) -> Any:
    """`apply` of an autograd.Function that the model's own code, already imported here, defines.

    Nothing else of the program's is looked up by what a file says, because calling it could do anything.
    """
    module, _, path = name.partition(":")
    owner_path, _, method = path.rpartition(".")
    for home in [sys.modules.get(module), *(m for n, m in list(sys.modules.items()) if module == "__main__" and n)]:
        owner = getattr(home, owner_path, None)
        if method == "apply" and isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
            return owner.apply
    raise BundleError(
        f"the step calls {name!r:.100}, code of the program that is not an autograd.Function defined beside the model"
    )


# --- calls ---


def _encode_call(call: Call, leaves: Mapping[int, int], parameters: Mapping[int, str]) -> dict[str, Any]:
    entry = call.module is not None
    return {
        "index": call.index,
        "kind": "entry" if entry else "function",
        "op": call.name if entry else function_name(call),
        "training": call.training if entry else None,
        "grad_enabled": call.ambient.grad_enabled,
        "autocast": [[device, _name(dtype)] for device, dtype in call.ambient.autocast],
        "args": encode_value(call.args, leaves, parameters),
        "kwargs": encode_value(call.kwargs, leaves, parameters),
        "file": call.stack[0][0].co_filename if call.stack else None,
        "line": call.stack[0][1] if call.stack else None,
        "in_place": call.mutates,
    }


def _decode_call(
    c: Mapping[str, Any],
    leaves: Sequence[torch.Tensor],
    state: Mapping[str, torch.Tensor],
    modules: Mapping[str, nn.Module],
    rng: Mapping[str, Mapping[str, torch.Tensor]],
) -> Call:
    entry = c["kind"] == "entry"
    if entry and c["op"] not in modules:
        raise BundleError(f"the model has no module {c['op']!r}, which the step calls; is it the same model?")
    states = rng.get(str(c["index"]))
    return Call(
        index=c["index"],
        segment=0,
        function=None if entry else find_function(c["op"]),
        args=decode_value(c["args"], leaves, state),
        kwargs=decode_value(c["kwargs"], leaves, state),
        ambient=Ambient(c["grad_enabled"], tuple((d, getattr(torch, t)) for d, t in c["autocast"])),
        stack=(),
        module=modules[c["op"]] if entry else None,
        name=c["op"] if entry else "",
        training=bool(c["training"]),
        rng=None if states is None else _rng(states),
        mutates=c["in_place"],
    )


def _rng(states: Mapping[str, torch.Tensor]) -> Rng:
    device = {int(k.removeprefix("cuda:")): s for k, s in states.items() if k.startswith("cuda:")}
    return Rng(states["cpu"], device if torch.cuda.is_available() else {})


# --- values ---


def encode_value(value: Any, leaves: Mapping[int, int], parameters: Mapping[int, str]) -> Any:
    """A recorded argument as JSON: one key says what it is."""
    if isinstance(value, Leaf):
        name = parameters.get(id(value.tensor))
        return {"leaf": leaves[id(value.tensor)]} if name is None else {"parameter": name}
    if isinstance(value, Ref):
        return {"output": [value.index, [_encode_key(k) for k in value.path]]}
    if isinstance(value, MappingToken | TupleToken):
        value = value.items
    if isinstance(value, dict):
        return {"dict": [[k, encode_value(v, leaves, parameters)] for k, v in value.items()]}
    if isinstance(value, tuple | list):
        return {"list" if isinstance(value, list) else "tuple": [encode_value(v, leaves, parameters) for v in value]}
    if isinstance(value, slice):
        return {"slice": [encode_value(v, leaves, parameters) for v in (value.start, value.stop, value.step)]}
    if isinstance(value, float):
        return {"float": json_ready(value)}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, torch.dtype):
        return {"dtype": _name(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if value is None or isinstance(value, bool | int | str):
        return {"value": value}
    return {"lost": f"{type(value).__name__}: {value!r}"[:200]}


def decode_value(token: Mapping[str, Any], leaves: Sequence[torch.Tensor], state: Mapping[str, torch.Tensor]) -> Any:
    """The argument behind a token. Raises: BundleError where it could not be kept, or is not in this bundle."""
    ((kind, content),) = token.items()
    if kind == "leaf":
        leaf = leaves[content]
        if not isinstance(leaf, torch.Tensor):
            raise BundleError("the batch is not in this bundle (capture_batch, max_batch_mib or redact withheld it)")
        return Leaf(leaf, leaf._version)
    if kind == "parameter":
        if content not in state:
            raise BundleError(f"the model has no parameter or buffer {content!r}; is it the same model?")
        return Leaf(state[content], 0)
    if kind == "output":
        return Ref(content[0], tuple(_decode_key(k) for k in content[1]))
    if kind == "dict":
        return {k: decode_value(v, leaves, state) for k, v in content}
    if kind in {"tuple", "list"}:
        items = [decode_value(v, leaves, state) for v in content]
        return items if kind == "list" else tuple(items)
    if kind == "slice":
        return slice(*(decode_value(v, leaves, state) for v in content))
    simple: dict[str, Callable[[Any], Any]] = {
              "float": number, "ellipsis": lambda _: Ellipsis, "dtype": lambda n: getattr(torch, n),
              "device": torch.device, "value": lambda v: v}  # fmt: skip
    if kind not in simple:
        raise BundleError(f"an argument of the step could not be kept: {str(content)[:200]}")
    return simple[kind](content)


def _encode_key(key: Any) -> dict[str, Any]:
    return (
        {"attribute": key.name}
        if isinstance(key, Attribute)
        else {"item": key if isinstance(key, int | str) else repr(key)}
    )


def _decode_key(key: Mapping[str, Any]) -> Any:
    return Attribute(key["attribute"]) if "attribute" in key else key["item"]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

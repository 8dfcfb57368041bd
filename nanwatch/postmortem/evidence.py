"""What a replay elsewhere needs, written into the incident's folder: batch, state, program, previews."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from nanwatch.bundle.tree import Capture
from nanwatch.bundle.writer import EvidenceWriter
from nanwatch.postmortem.program import buffers_before, data_leaves, function_name, generator_states
from nanwatch.postmortem.replay import Plan, leaves_of
from nanwatch.postmortem.source import source_around
from nanwatch.probes.buffers import Slot
from nanwatch.probes.flight_recorder import Call, Leaf, MappingToken, Ref, TupleToken
from nanwatch.records import json_ready

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_PREVIEW_ROWS = 4
_PREVIEW_VALUES = 4096


@dataclass(frozen=True)
class Privacy:
    """What may be written, as the user set it."""

    capture_batch: Capture
    capture_parameters: Capture
    max_batch_mib: int
    max_state_mib: int
    redact: Callable[[str, torch.Tensor], torch.Tensor | None] | None


def write_batch(
    writer: EvidenceWriter,
    made: Plan,
    parameters: Mapping[int, str],
    rows: Sequence[int],
    sample_ids: Sequence[Any],
    privacy: Privacy,
) -> None:
    """`batch/`: what the entry modules got, and the tensors that the loss code read (targets, masks)."""
    entries = [c for c in made.calls if c.module is not None]
    outside = [c for c in made.calls if c.module is None and any(id(t) not in parameters for t in leaves_of(c))]
    tree = {
        "entries": [[readable(c.args, parameters), readable(c.kwargs, parameters)] for c in entries],
        "outside": [[readable(c.args, parameters), readable(c.kwargs, parameters)] for c in outside],
        "leaves": list(data_leaves(made, parameters).values()),
    }
    kept = writer.tensors(
        "batch/tensors", tree, mode=privacy.capture_batch, rows=rows, batch_size=made.batch_size,
        max_mib=privacy.max_batch_mib, redact=privacy.redact,
    )  # fmt: skip
    nodes = {key: node["items"] for key, node in kept.pop("tree")["items"]}
    document = {
        "schema": "nanwatch.batch/1",
        **kept,
        "batch_size": made.batch_size,
        "sample_ids": list(sample_ids) or None,
        "entries": [
            {"module": c.name, **_args_and_kwargs(node)} for c, node in zip(entries, nodes["entries"], strict=True)
        ],
        "outside": [
            {"function": function_name(c), **_args_and_kwargs(node)}
            for c, node in zip(outside, nodes["outside"], strict=True)
        ],
        "leaves": nodes["leaves"],
    }
    writer.json("batch/tree.json", document)


def write_state(
    writer: EvidenceWriter,
    made: Plan,
    parameters: Mapping[str, torch.Tensor],
    buffers: Mapping[str, tuple[Slot, torch.Tensor]],
    optimizer_state: Mapping[str, Any] | None,
    privacy: Privacy,
) -> None:
    """`state/`: generators, buffers, parameters as they were before the step; the optimizer's where it is at fault."""
    tree = {
        "schema": "nanwatch.state/1",
        "rng": writer.tensors("state/rng", generator_states(made)),
        "buffers": writer.tensors("state/buffers", buffers_before(made, buffers)),
        "parameters": writer.tensors(
            "state/parameters",
            dict(parameters),
            mode=privacy.capture_parameters,
            max_mib=privacy.max_state_mib,
            hashes=True,
        ),
    }
    if optimizer_state is not None:
        tree["optimizer"] = writer.tensors(
            "state/optimizer", optimizer_state, mode=privacy.capture_parameters, max_mib=privacy.max_state_mib
        )
    writer.json("state/tree.json", tree)


def named_data(made: Plan, parameters: Mapping[int, str]) -> dict[str, torch.Tensor]:
    """The same with the names that a reader knows them by: `x`, `batch.labels`, `mse_loss.target`."""
    out: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for call in made.calls:
        named = _by_parameter(call)
        prefix = (
            (f"{call.name}." if call.name else "")
            if call.module is not None
            else f"{function_name(call).split('.')[-1]}."
        )
        for name, leaf in _named_leaves(named, ""):
            if id(leaf.tensor) not in seen and id(leaf.tensor) not in parameters:
                seen.add(id(leaf.tensor))
                out[_free(out, prefix + name)] = leaf.tensor
    return out


def preview(
    file: str | None,
    line: int | None,
    rows: Sequence[int],
    data: Mapping[str, torch.Tensor],
    batch_size: int | None,
    privacy: Privacy,
) -> dict[str, Any]:
    """`preview.json`: the source around the line, and the offending rows' values as JSON."""
    return {
        "schema": "nanwatch.preview/1",
        "source": source_around(file, line),
        "rows": _row_values(rows, data, batch_size, privacy),
    }


def readable(value: Any, parameters: Mapping[int, str]) -> Any:
    """A recorded value with tensors in place of leaves, and words in place of outputs and parameters."""
    if isinstance(value, Leaf):
        name = parameters.get(id(value.tensor))
        return value.tensor if name is None else f"<parameter {name}>"
    if isinstance(value, Ref):
        return f"<output of call {value.index}>"
    return _mapped(value, lambda v: readable(v, parameters))


def _mapped(value: Any, fn: Callable[[Any], Any]) -> Any:
    if isinstance(value, MappingToken):
        return {k: fn(v) for k, v in value.items.items()}
    if type(value) is dict:
        return {k: fn(v) for k, v in value.items()}
    if isinstance(value, TupleToken):
        return [fn(v) for v in value.items]
    if isinstance(value, tuple | list):
        return type(value)(fn(v) for v in value)
    return value


def _named_leaves(value: Any, path: str) -> Iterator[tuple[str, Leaf]]:
    if isinstance(value, Leaf):
        yield path, value
    elif isinstance(value, MappingToken | TupleToken):
        yield from _named_leaves(value.items, path)
    elif type(value) is dict:
        for k, v in value.items():
            yield from _named_leaves(v, f"{path}.{k}" if path else str(k))
    elif isinstance(value, tuple | list):
        for i, v in enumerate(value):
            yield from _named_leaves(v, f"{path}[{i}]")


def _row_values(
    rows: Sequence[int], data: Mapping[str, torch.Tensor], batch_size: int | None, privacy: Privacy
) -> list[dict[str, Any]]:
    if privacy.capture_batch not in {"full", "rows"} or batch_size is None:
        return []
    out = []
    for name, tensor in data.items():
        shown = tensor if privacy.redact is None else privacy.redact(name, tensor)
        if shown is None or shown.dim() == 0 or shown.shape[0] != batch_size or shown.layout != torch.strided:
            continue
        for row in list(rows)[:_PREVIEW_ROWS]:
            kept = _thinned(shown[row].detach())
            wide = kept.reshape(-1)[:_PREVIEW_VALUES].cpu()
            values = wide.float().tolist() if wide.is_floating_point() else wide.tolist()
            out.append({
                "leaf": name, "row": row, "shape": list(shown.shape[1:]),
                "dtype": str(shown.dtype).removeprefix("torch."),
                "values": json_ready(values), "values_shape": list(kept.shape),
                "truncated": kept.numel() > _PREVIEW_VALUES,
            })  # fmt: skip
    return out


def _by_parameter(call: Call) -> dict[str, Any]:
    """The arguments by the names of the parameters, as far as the signature tells them."""
    function: Any = type(call.module).forward if call.module is not None else call.function
    try:
        names = [p.name for p in inspect.signature(function).parameters.values() if p.kind in _POSITIONAL]
    except (TypeError, ValueError):  # a function written in C tells nothing
        names = []
    if call.module is not None:
        names = names[1:]
    rest = [f"args[{i}]" for i in range(len(names), len(call.args))]
    return {**dict(zip([*names, *rest], call.args, strict=False)), **call.kwargs}


def _thinned(row: torch.Tensor) -> torch.Tensor:
    """Every n-th pixel of what may be an image, so that a preview shows the whole of it."""
    if row.dim() not in {2, 3} or row.numel() <= _PREVIEW_VALUES:
        return row
    stride = math.ceil(math.sqrt(row.numel() / _PREVIEW_VALUES))
    channels_last = row.dim() == 3 and row.shape[-1] in {1, 3}
    return row[::stride, ::stride] if channels_last else row[..., ::stride, ::stride]


def _args_and_kwargs(node: dict[str, Any]) -> dict[str, Any]:
    args, kwargs = node["items"]
    return {"args": args, "kwargs": kwargs}


def _free(taken: Mapping[str, Any], name: str) -> str:
    n, out = 2, name
    while out in taken:
        out, n = f"{name}#{n}", n + 1
    return out

"""The module graph and the operations around the origin, taken from the replay's events: `graph.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nanwatch.postmortem.tracer import Event
from nanwatch.probes.watched import count_elements
from nanwatch.records import json_ready

SCHEMA = "nanwatch.graph/1"
_AROUND = 60
LOSS = "(loss)"


def describe_graph(
    events: list[Event],
    modules: Mapping[str, nn.Module],
    calls: Mapping[str, int],
    origin: Event | None,
    path: tuple[Event, ...],
) -> dict[str, Any]:
    """Modules that ran, the data flow between them in order of execution, and up to 60 operations around the origin."""
    used: dict[str, dict[str, Any]] = {}
    edges: dict[tuple[str, str], None] = {}
    for event in events:
        if event.backward:
            continue
        name = LOSS if event.module is None else event.module
        node = used.setdefault(name, {"absmax": 0.0, "nonfinite": 0, "operations": 0})
        node["absmax"] = max(node["absmax"], event.absmax)
        node["nonfinite"] += event.value != "finite"
        node["operations"] += 1
        for source in event.sources:
            if source.event is None:
                continue
            maker = events[source.event]
            came_from = LOSS if maker.module is None else maker.module
            if came_from != name and not maker.backward:
                edges[came_from, name] = None
    # Where nothing ran again (the optimizer's step), the model as it is built is still worth seeing.
    shown = _with_ancestors(list(used), modules) if used else list(modules)
    return {
        "schema": SCHEMA,
        "modules": [_module(name, modules.get(name), used.get(name), calls.get(name, 0)) for name in shown],
        "edges": [list(e) for e in edges],
        "origin": None if origin is None else _place(origin),
        "path": _unique([_place(e) for e in path]),
        "operations": _operations(events, origin, path),
    }


def magnitudes(events: list[Event], limit: int = 400) -> list[dict[str, Any]]:
    """Largest value after each forward operation, in order; evenly thinned to `limit`, the bad ones kept."""
    forward = [e for e in events if not e.backward and not e.view]
    stride = max(1, len(forward) // limit)
    kept = [e for i, e in enumerate(forward) if i % stride == 0 or e.value != "finite"]
    rows = []
    for e in kept[: 2 * limit]:
        line = e.stack[0][1] if e.stack else None
        rows.append({"op": e.op, "module": e.module, "line": line, "absmax": json_ready(e.absmax), "value": e.value})
    return rows


def _place(event: Event) -> str:
    module = event.located.module
    return LOSS if module is None else module


def _with_ancestors(names: list[str], modules: Mapping[str, nn.Module]) -> list[str]:
    wanted = set(names)
    for name in names:
        parts = name.split(".")
        wanted.update(".".join(parts[:i]) for i in range(1, len(parts)))
    wanted |= {""} & set(modules)
    order = {name: i for i, name in enumerate(modules)}
    return sorted(wanted, key=lambda n: order.get(n, len(order)))


def _module(name: str, module: nn.Module | None, seen: dict[str, Any] | None, calls: int) -> dict[str, Any]:
    parent = None if name in {"", LOSS} else name.rpartition(".")[0]
    own = 0 if module is None else count_elements(module.parameters(recurse=False))
    return {
        "id": name,
        "type": "loss code" if name == LOSS else type(module).__name__ if module is not None else None,
        "parent": parent,
        "parameters": own,
        "calls": calls,
        "operations": 0 if seen is None else seen["operations"],
        "absmax": 0.0 if seen is None else json_ready(seen["absmax"]),
        "nonfinite": 0 if seen is None else seen["nonfinite"],
    }


def _operations(events: list[Event], origin: Event | None, path: tuple[Event, ...]) -> list[dict[str, Any]]:
    if origin is None:
        return []
    near = range(max(0, origin.index - _AROUND // 3), min(len(events), origin.index + _AROUND // 3))
    wanted = sorted({*(i for i in near if not events[i].view), *(e.index for e in path[: _AROUND // 3])})
    out = []
    for index in wanted:
        e = events[index]
        place = e.stack[0] if e.stack else None
        out.append({
            "id": e.index, "op": e.op, "module": e.module, "file": place[0].co_filename if place else None,
            "line": place[1] if place else None, "value": e.value, "absmax": json_ready(e.absmax),
            "inputs": [s.event for s in e.sources if s.event is not None], "birth": e is origin,
            "backward": e.backward,
        })  # fmt: skip
    return out


def _unique(items: list[str]) -> list[str]:
    return list(dict.fromkeys(items))

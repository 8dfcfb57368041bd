"""From the operation that a replay found to the origin and the cause that people read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from nanwatch.postmortem.cause import name_cause
from nanwatch.postmortem.provenance import Found, LeafOrigin
from nanwatch.postmortem.replay import Plan
from nanwatch.postmortem.tensors import bad_columns, bad_rows, element_at, first_bad, state_of, summarize
from nanwatch.postmortem.traceback import frames, source_line
from nanwatch.postmortem.tracer import Event
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.flight_recorder import Stack
from nanwatch.records import Cause, Origin, PathNode, Phase, TensorSummary

_LABEL_WORDS = ("label", "target", "truth", "y_true")
_LOSSES = ("loss", "cross_entropy", "binary_cross", "kl_div", "nll")


class Namer:
    """Knows the models by name, and which parameters an optimizer has ever updated."""

    def __init__(self, probes: Probes) -> None:
        self.known_parameters: set[str] = set()
        """Names of the parameters at attach: what is not among them was added later."""
        self._probes = probes

    def modules(self) -> dict[str, torch.nn.Module]:
        return dict(self._probes.watched.named_modules())

    def state(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers by name."""
        watched = self._probes.watched
        return {**dict(watched.named_buffers()), **dict(watched.named_parameters())}

    def ids(self) -> dict[int, str]:
        """Id of a parameter or buffer -> its name."""
        return {id(t): name for name, t in self.state().items()}

    def type_of(self, module: str | None) -> str | None:
        found = None if module is None else self.modules().get(module)
        return None if found is None else type(found).__name__

    # --- an origin found by the walk ---

    def name(self, found: Found, events: Sequence[Event], made: Plan) -> tuple[Origin, Cause]:
        """Origin and cause of what the walk through the replay's operations has found."""
        if found.leaf is not None:
            return self._name_leaf(found, found.leaf, made)
        event = found.event
        assert event is not None
        located = event.located
        phase: Phase = "backward" if event.backward else "loss" if located.module is None else "forward"
        origin = self._origin(phase, event, located.op if not event.own_code else event.op)
        return origin, name_cause(phase, event, found, events, {})

    def _name_leaf(self, found: Found, leaf: LeafOrigin, made: Plan) -> tuple[Origin, Cause]:
        rows = bad_rows(leaf.tensor, made.batch_size, exact=True) if leaf.kind == "data" else ()
        if leaf.kind == "data" and not rows:  # sliced out of something larger: the rows of what was made of it
            rows = next((e.rows for e in found.path if e.rows), ())
        value = state_of(leaf.tensor)
        phase: Phase = "params" if leaf.kind == "params" else "data"
        origin = self._origin(phase, leaf.consumer, leaf.consumer.located.op)
        module = origin.module if phase == "data" else leaf.name.rpartition(".")[0]
        summary = _with_first_bad(summarize(leaf.name or "constant", leaf.tensor), leaf.tensor)
        columns = bad_columns(leaf.tensor) if phase == "data" else ()
        origin = replace(
            origin, value=value, module=module, module_type=self.type_of(module), param=leaf.name or None,
            batch_rows=rows, batch_features=columns, inputs=(summary,),
        )  # fmt: skip
        facts: dict[str, Any] = {
            "leaf": leaf.name or "a constant tensor", "value": value, "rows": rows, "features": columns,
            "is_label": _is_label(leaf), "never_updated": self._never_updated(leaf.name),
            "known_at_attach": leaf.name in self.known_parameters,
        }  # fmt: skip
        return origin, name_cause(phase, None, found, [], facts)

    def _never_updated(self, name: str) -> bool:
        parameter = dict(self._probes.watched.named_parameters()).get(name)
        return parameter is not None and not any(parameter in o.state for o in self._probes.optimizer.seen)

    def _origin(self, phase: Phase, event: Event, op: str) -> Origin:
        return replace(
            self.placed(phase, event.stack, event.module),
            op=op,
            value=event.value if event.value != "finite" else "nan",
            inputs=event.inputs,
            output=event.output,
            batch_rows=event.rows,
        )

    def placed(self, phase: Phase, stack: Stack, module: str | None) -> Origin:
        """An origin that knows its line and module only."""
        shown = frames(stack)
        top = shown[0] if shown else None
        return Origin(
            phase=phase,
            module=module,
            module_type=self.type_of(module),
            file=top.file if top else None,
            line=top.line if top else None,
            function=top.function if top else None,
            code=source_line(top),
            stack=shown,
        )


def _with_first_bad(summary: TensorSummary, tensor: torch.Tensor) -> TensorSummary:
    at = first_bad(tensor)
    element = None if at is None else element_at(tensor, at, tensor.shape)
    if element is None or math.isnan(element[1]):
        return replace(summary, position=at)
    return replace(summary, position=at, value=element[1])


def path_of(chain: tuple[Event, ...]) -> tuple[PathNode, ...]:
    """The way of the value for the reader."""
    return tuple(_node(e) for e in chain)


def _node(event: Event) -> PathNode:
    located = event.located
    place = located.stack[0] if located.stack else None
    return PathNode(
        event.op, located.module, place[0].co_filename if place else None, place[1] if place else None, event.value
    )


def _is_label(leaf: LeafOrigin) -> bool:
    """By its name, or because a loss function outside of the model is what read it."""
    name = leaf.name.lower()
    words = name.replace("[", ".").split(".")
    return any(w in name for w in _LABEL_WORDS) or "y" in words or any(w in name for w in _LOSSES)

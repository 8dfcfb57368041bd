"""From the operation that a replay found to the origin and the cause that people read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from nanwatch.postmortem import evidence
from nanwatch.postmortem.cause import name_cause, unknown
from nanwatch.postmortem.causes_leaf import Past, data_cause, parameter_cause
from nanwatch.postmortem.provenance import Found, LeafOrigin, Leaves
from nanwatch.postmortem.replay import Plan
from nanwatch.postmortem.tensors import (
    bad_columns,
    bad_rows,
    element_at,
    first_bad,
    nonfinite_among,
    state_of,
    summarize,
)
from nanwatch.postmortem.traceback import frames, source_line
from nanwatch.postmortem.tracer import Event, storage_key
from nanwatch.probes.ensemble import Probes
from nanwatch.probes.flight_recorder import Stack, leaves_in
from nanwatch.records import Cause, Origin, PathNode, Phase, TensorSummary


class Namer:
    """Knows the models by name, and which parameters an optimizer has ever updated."""

    def __init__(self, probes: Probes) -> None:
        self._at_attach: dict[str, bool] = {}
        """Name of a parameter or buffer at attach -> whether it was bad; what is not among them was added later."""
        self._probes = probes

    def remember_state(self) -> None:
        """Look at the parameters and buffers that were just attached: what is bad now was not made by the training."""
        new = {n: t for n, t in self.state().items() if n not in self._at_attach}
        bad = nonfinite_among(new)
        self._at_attach.update({name: name in bad for name in new})

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
        origin = self._origin(phase, event, located.op)
        leaves = Leaves(self.state(), evidence.named_data(made, self.ids()), made.stand_ins)
        carried = _made_by_program(made)

        def leaf_name(tensor: torch.Tensor) -> tuple[str, str]:
            kind, name, _ = leaves.classify(tensor)
            return ("constant" if storage_key(tensor) in carried else kind), name

        return origin, name_cause(origin, found, list(events), leaf_name)

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
        if phase == "data" and leaf.tensor.grad_fn is not None:
            # It has a graph, so operations made it: those of code that no recorder sees into.
            node = leaf.tensor.grad_fn.name()
            why = f"{leaf.name} was made by code that is not recorded (TorchScript, an extension), last by {node}"
            return replace(origin, phase="loss", op=None, module=None, module_type=None), unknown(why)
        if phase == "data":
            return origin, data_cause(origin, leaf, made)
        known = self._at_attach.get(leaf.name)
        past = Past(known is not None, bool(known), self._updated(leaf.name))
        return origin, parameter_cause(origin, leaf.name, past)

    def _updated(self, name: str) -> bool | None:
        """Whether an optimizer has ever updated it; None where that cannot be told (plain SGD remembers nothing)."""
        parameter = dict(self._probes.watched.named_parameters()).get(name)
        if parameter is None:
            return None
        seen = self._probes.optimizer.seen
        if any(parameter in o.state for o in seen):
            return True
        forgetful = [g for o in seen if not o.state for g in o.param_groups]
        return None if any(p is parameter for g in forgetful for p in g["params"]) else False

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


def _made_by_program(made: Plan) -> set[int | None]:
    """Storages of what the step started from and an earlier call had made: a state that is carried, targets."""
    tokens = (t for c in made.calls for t in leaves_in(c))
    return {storage_key(t.tensor) for t in tokens if t.maker is not None}


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

"""A bundle's step, run again in another process that has the model's code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nanwatch.bundle.reader import Bundle
from nanwatch.bundle.tensors import load_tensors
from nanwatch.errors import BundleError
from nanwatch.postmortem.evidence import named_data
from nanwatch.postmortem.program import decode_program
from nanwatch.postmortem.provenance import Leaves, find_origin
from nanwatch.postmortem.replay import Plan, run, same_bits
from nanwatch.postmortem.tensors import state_of
from nanwatch.postmortem.traceback import frames
from nanwatch.postmortem.tracer import Event, Tracer
from nanwatch.probes.watched import WatchedModels
from nanwatch.records import Incident, Verdict


@dataclass(frozen=True)
class Again:
    """What the second run said. `differences` is empty when it agrees with the incident."""

    verdict: Verdict
    op: str | None
    module: str | None
    file: str | None
    line: int | None
    loss: float
    differences: tuple[str, ...]

    def __str__(self) -> str:
        if self.op is None:
            text = f"{self.verdict}: the step is finite (loss {self.loss:g})"
            return text + "".join(f"\n  differs: {d}" for d in self.differences)
        where = "" if self.module is None else f" in {self.module or 'the model itself'}"
        text = f"{self.verdict}: {self.op}{where} at {self.file}:{self.line}"
        return text + "".join(f"\n  differs: {d}" for d in self.differences)


def replay_bundle(folder: Path, factory: str) -> Again:
    """Run the incident in `folder` with the model that `factory` (`package.module:callable`) makes.

    The callable takes no arguments and returns the model, or a mapping of names to models as given to attach.
    Parameters, buffers, batch and random numbers come from the bundle.

    Raises: BundleError when the bundle is damaged, the model is another one, or something needed was not captured.
    """
    bundle = Bundle.open(folder)
    models = WatchedModels()
    made = _call(factory)
    for name, model in made.items() if isinstance(made, Mapping) else [("", made)]:
        models.add(name, model)
    _load_state(bundle, models)
    batch = bundle.json("batch/tree.json")
    leaves = load_tensors(bundle.path("batch/tensors.safetensors"), {"kind": "list", "items": batch["leaves"]})
    rng = load_tensors(bundle.path("state/rng.safetensors"), bundle.json("state/tree.json")["rng"]["tree"])
    state = {**dict(models.named_buffers()), **dict(models.named_parameters())}
    plan = decode_program(bundle.json("program.json"), leaves, state, dict(models.named_modules()), rng)
    tracer = Tracer(plan.batch_size)
    outcome = run(plan, models.parameters, modules=dict(models.named_modules()), tracer=tracer)
    bad = [t for t in outcome.roots if state_of(t) != "finite"][:1]
    bad = bad or [g for g in outcome.gradients if g is not None and state_of(g) != "finite"]
    roots = [m for t in bad if (m := tracer.maker_of(t)) is not None]
    event = None if not roots else _origin(tracer.events, roots, plan, state)
    return _compare(bundle.incident, event, outcome.loss)


def _call(factory: str) -> Any:
    module, colon, name = factory.partition(":")
    if not colon:
        raise BundleError(f"--model {factory!r}: write it as package.module:callable")
    # Like `python script.py`: the reader's own model file lies where they stand.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise BundleError(f"--model {factory!r} cannot be imported: {e}") from e
    result = made() if not isinstance(made, nn.Module) else made
    models = list(result.values()) if isinstance(result, Mapping) else [result]
    if not all(isinstance(m, nn.Module) for m in models):
        raise BundleError(f"--model {factory!r} gave a {type(result).__name__}, not a torch.nn.Module")
    return result


def _load_state(bundle: Bundle, models: WatchedModels) -> None:
    tree = bundle.json("state/tree.json")
    for member, named in (("parameters", models.named_parameters()), ("buffers", models.named_buffers())):
        name = f"state/{member}.safetensors"
        if not bundle.has(name):
            if tree[member]["tree"]["items"]:
                raise BundleError(f"{member} are not in this bundle ({tree[member]['reason'] or 'not captured'})")
            continue
        saved = load_tensors(bundle.path(name), tree[member]["tree"])
        for key, tensor in named:
            value = saved.get(key)
            if not isinstance(value, torch.Tensor) or value.shape != tensor.shape:
                raise BundleError(f"the bundle has no {key!r} of shape {list(tensor.shape)}; is it the same model?")
            with torch.no_grad():
                tensor.copy_(value)


def _origin(events: list[Event], roots: list[Event], plan: Plan, state: Mapping[str, torch.Tensor]) -> Event:
    ids = {id(t): name for name, t in state.items()}
    return find_origin(events, roots, Leaves(state, named_data(plan, ids), plan.stand_ins)).at


def _compare(incident: Incident, event: Event | None, loss: float) -> Again:
    origin = incident.origin
    if incident.kind == "capture" or event is None:
        differences = _of_loss(incident, loss) if incident.kind == "capture" else ("the step stayed finite",)
        verdict: Verdict = "not_reproduced" if differences else "reproduced"
        return Again(verdict, None, None, None, None, loss, differences)
    located = event.located
    op = located.op
    place = frames(located.stack)
    top = place[0] if place else None
    told: list[str] = []
    if origin is not None and origin.op != op:
        told.append(f"the operation is {op}, the incident says {origin.op}")
    if origin is not None and origin.phase in {"forward", "backward"} and origin.module != located.module:
        told.append(f"the module is {located.module}, the incident says {origin.module}")
    file, line = (top.file, top.line) if top is not None else (None, None)
    if top is None and origin is not None and not told:
        # Loss code is run from the recording, so that its line is known from the incident alone.
        file, line = origin.file, origin.line
    return Again(
        "not_reproduced" if told else "reproduced", op, located.module, file, line, loss,
        (*told, *_of_loss(incident, loss)),
    )  # fmt: skip


def _of_loss(incident: Incident, loss: float) -> tuple[str, ...]:
    """Another build, processor or number of threads rounds differently; then the origin is the same all the same."""
    if incident.loss is None or same_bits(incident.loss, loss):
        return ()
    return (f"the loss is {loss!r}, the training's was {incident.loss!r}",)

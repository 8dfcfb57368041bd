"""The cause of a value that was bad before the step ran: in the batch, or in a parameter or buffer."""

from __future__ import annotations

from dataclasses import dataclass

from nanwatch.postmortem.case import Ruling
from nanwatch.postmortem.op_families import short
from nanwatch.postmortem.provenance import LeafOrigin
from nanwatch.postmortem.replay import Plan, leaves_of
from nanwatch.postmortem.tracer import storage_key
from nanwatch.postmortem.wording import fixes, listed, subject
from nanwatch.probes.flight_recorder import refs_of
from nanwatch.records import Cause, Origin

_LABEL_WORDS = ("label", "target", "truth", "y_true")
_LOSSES = ("loss", "cross_entropy", "binary_cross", "kl_div", "nll")


@dataclass(frozen=True)
class Past:
    """What is known of a parameter or buffer from before the step."""

    known_at_attach: bool
    bad_at_attach: bool
    updated: bool | None
    """Whether an optimizer has ever updated it; None where that is not known, and for buffers."""


def data_cause(origin: Origin, leaf: LeafOrigin, made: Plan) -> Cause:
    """`bad_label` or `bad_input`: which tensor, which rows and columns, where it is read first."""
    label = "bad_label" if is_label(leaf, made) else "bad_input"
    places = [p for p in (listed("row", origin.batch_rows), listed("feature", origin.batch_features)) if p]
    where = f" in {', '.join(places)}" if places else ""
    if not leaf.name:
        why = f"a tensor that the program made from numbers of its own holds {origin.value}{where}"
        return Cause(label, "likely", (f"{why}; it is read at {subject(origin)}.",), fixes(label, origin))
    why = f"{leaf.name} holds {origin.value}{where} before the model has touched it"
    return Cause(label, "certain", (f"{why}; {subject(origin)} reads it first.",), fixes(label, origin))


def parameter_cause(origin: Origin, name: str, past: Past) -> Cause:
    """How a parameter or buffer came to be bad, as far as its past is known."""
    ruling = _of_parameter(name, origin.value, past)
    reads = (f"{subject(origin)} reads it first.",) if origin.line else ()
    return Cause(ruling.label, ruling.confidence, (ruling.did, *reads), fixes(ruling.label, origin))


def _of_parameter(name: str, value: str, past: Past) -> Ruling:
    if past.bad_at_attach:
        did = f"{name} held {value} already when the watch began: it came so from its initialisation or a checkpoint."
        return Ruling("bad_init", "likely", did)
    if not past.known_at_attach and not past.updated:
        did = f"{name} was added during training and holds {value}: torch.empty without initialisation looks like this."
        return Ruling("uninitialised_memory", "likely", did)
    if past.updated is False:
        did = f"{name} was never updated by an optimizer and holds {value}: something else has written into it."
        return Ruling("bad_init", "possible", did)
    did = (
        f"{name} held {value} when the step began and no recorded operation has made it: a checkpoint that was loaded,"
        " or code that writes into it outside of the step."
    )
    return Ruling("bad_checkpoint", "possible", did)


def is_label(leaf: LeafOrigin, made: Plan) -> bool:
    """By its name, by the argument of the loss that it is, or because the model never reads it and the loss does."""
    if named_like_label(leaf.name):
        return True
    read_as = {t.name for t in leaf.consumer.inputs if t.nonfinite}
    if "loss" in short(leaf.consumer.op) and read_as == {"target"}:
        return True
    return bool(leaf.name) and _read_by_loss_alone(leaf, made)


def named_like_label(name: str) -> bool:
    """`labels`, `y`, `mse_loss.target`."""
    words = name.lower().replace("[", ".").split(".")
    return "y" in words or any(w in name.lower() for w in (*_LABEL_WORDS, *_LOSSES))


def _read_by_loss_alone(leaf: LeafOrigin, made: Plan) -> bool:
    key = storage_key(leaf.tensor)
    depends: set[int] = set()
    for call in made.calls:
        reads = any(storage_key(t) == key for t in leaves_of(call))
        if not reads and not depends.intersection(refs_of(call)):
            continue
        if call.is_entry:
            return False
        depends.add(call.index)
    return bool(depends) and any(c.is_entry for c in made.calls)

"""The incident in sentences. Everything here follows from `incident.json` alone."""

from __future__ import annotations

from pathlib import PurePath

from nanwatch.records import Incident, Origin
from nanwatch.report.chain import short_op
from nanwatch.report.figures import plural
from nanwatch.report.offenders import rows_text

_VALUES = {"nan": "NaN", "inf": "infinity", "none": "not finite"}
_PHASES = {
    "data": "came in with the batch",
    "params": "was in the model before the step",
    "forward": "was made inside the model",
    "loss": "was made in the loss code, after the model",
    "backward": "was made in the backward pass",
    "optimizer": "was made by the optimizer's step",
}
_VERDICTS = {
    "reproduced": "Reproduced",
    "not_reproduced": "Not reproduced",
    "failed": "Replay failed",
}
_ACTIONS = {
    "record": "recorded, training went on",
    "skip": "the update was skipped",
    "stop": "training was stopped",
}


def headline(incident: Incident) -> str:
    """What happened, in one short sentence."""
    step = f"step {incident.step:,}"
    if incident.kind == "capture":
        return f"Captured on request at {step}"
    seen = incident.seen
    value = {"inf": "infinite"}.get(seen.value, value_name(seen.value))
    if seen.where == "output":
        return f"The program raised {incident.reason or 'an exception'} at {step}, after a {value}"
    if seen.where == "loss":
        return f"The loss became {value} at {step}{'' if seen.backward else ', and no backward was called on it'}"
    if seen.where == "none":
        return f"A value became {value} at {step}"
    count = max(seen.count, len(seen.names), 1)
    noun = "gradient" if seen.where == "grad" else "buffer" if _is_buffer(incident) else "parameter"
    if count == 1 and seen.names:
        which = f"gradient of {seen.names[0]}" if noun == "gradient" else f"{noun} {seen.names[0]}"
        return f"The {which} became {value} at {step}"
    return f"{plural(count, noun)} became {value} at {step}"


def value_name(value: str) -> str:
    """`NaN` for `nan`, `infinity` for `inf`."""
    return _VALUES.get(value, value)


def lead(incident: Incident) -> str:
    """Where it began, and the first reason why."""
    if incident.kind == "capture" and incident.origin is None:
        return incident.reason or "Nothing was wrong: somebody asked for a picture of this step."
    if incident.origin is None:
        return "Where it began could not be found. What was seen, and what a replay needs, is below."
    came_in = incident.origin.phase in {"data", "params"}  # where it was read first is all that there is to say
    why = f"{sentence(incident.cause.why[0]).rstrip('.')}." if incident.cause.why and not came_in else ""
    return f"{origin_sentence(incident)} {why}".strip()


def sentence(text: str) -> str:
    """With a capital letter, unless it begins with a name from somebody's code."""
    first = text.split(" ", 1)[0]
    return text[:1].upper() + text[1:] if first.isalpha() and first.islower() else text


def origin_sentence(incident: Incident) -> str:
    """What made the first bad value, and where; empty where no origin was found."""
    origin = incident.origin
    if origin is None:
        return ""
    value = value_name(origin.value)
    at = f" ({place(origin)})" if origin.file else ""
    first_use = f" It is first used at {place(origin)}." if origin.file else ""
    if origin.phase == "data":
        leaf = f" in {origin.param or origin.inputs[0].name}" if origin.param or origin.inputs else ""
        rows = rows_text(incident)
        return f"The {value} came in with the batch{leaf}{f', {rows}' if rows else ''}.{first_use}"
    if origin.phase == "params":
        what = origin.param or "a parameter or buffer"
        if _is_buffer(incident) and not origin.op:
            return f"{what} was changed outside of what was recorded: where the {value} came from is not known."
        return f"The {value} was in {what} before the step began.{first_use}"
    doer = short_op(origin.op) if origin.op else "An operation"
    where = {
        "forward": f"in {module_text(origin)}",
        "loss": "in the loss code",
        "backward": f"in the backward pass of {module_text(origin)}" if origin.module else "in the backward pass",
        "optimizer": "in the optimizer's step" + (f" on {origin.param}" if origin.param else ""),
    }[origin.phase]
    return f"{doer} made the first {value} {where}{at}."


def _is_buffer(incident: Incident) -> bool:
    """A parameter goes bad on its own only in the optimizer's step; what else does is a buffer."""
    phase = None if incident.origin is None else incident.origin.phase
    return incident.seen.where == "parameter" and phase != "optimizer"


def module_text(origin: Origin) -> str:
    """The module's path, or what stands for it."""
    if origin.module is None:
        return "code outside the model"
    if origin.module:
        return origin.module
    return f"the model itself ({origin.module_type})" if origin.module_type else "the model itself"


def place(origin: Origin) -> str:
    """`model.py:28`."""
    return f"{PurePath(origin.file).name}:{origin.line}" if origin.file else "outside Python"


def phase_sentence(origin: Origin) -> str:
    """`forward: was made inside the model`, as words."""
    return f"The value {_PHASES[origin.phase]}."


def verdict_text(incident: Incident) -> str:
    """The verdict as a badge says it."""
    bits = ", bit for bit" if incident.replay.bitwise and incident.replay.verdict == "reproduced" else ""
    return _VERDICTS[incident.replay.verdict] + bits


def verdict_sentence(incident: Incident) -> str:
    """What the verdict means for the reader."""
    replay = incident.replay
    times = plural(replay.attempts, "replay")
    if replay.verdict == "reproduced":
        compared = incident.seen.where in {"loss", "grad"}
        how = "gave the same bits" if replay.bitwise else "gave a non-finite value again"
        how += ", though not the same bits" if compared and not replay.bitwise else ""
        return f"{times} of this step {how}. What is said below was measured on it."
    if replay.verdict == "not_reproduced":
        return (
            f"{times} of this step stayed finite. Randomness that is not part of the evidence, a race or faulty "
            "hardware can be behind that; what is said below is less certain."
        )
    return (
        f"The step could not be run again: {replay.error or 'no reason was given'}. What is said below was seen live."
    )


def action_text(incident: Incident) -> str:
    """What was done about it."""
    if not incident.seen.backward or incident.seen.where == "output":
        return "recorded"  # the program itself has decided how it went on
    return _ACTIONS[incident.action]


def seen_text(incident: Incident) -> str:
    """Where it was seen: `loss`, `gradient of fc.weight and 4 more`."""
    seen = incident.seen
    if seen.where == "output":
        return incident.reason or "an exception"
    if seen.where == "parameter":
        what = "buffer" if _is_buffer(incident) else "parameter"
    else:
        what = {"grad": "gradient of", "none": ""}.get(seen.where, seen.where)
    if not seen.names or seen.where == "loss":
        return what.removesuffix(" of")
    return f"{what} {seen.names[0]}{f' and {seen.count - 1} more' if seen.count > 1 else ''}"


def cause_title(label: str) -> str:
    """The cause's label as words."""
    return _CAUSES.get(label) or label.replace("_", " ").capitalize()


_CAUSES = {
    "log_of_zero": "Logarithm of zero",
    "division_by_zero": "Division by zero",
    "sqrt_zero_grad": "Square root of zero: its gradient is infinite",
    "pow_zero_grad": "Power of zero: its gradient is infinite",
    "where_gradient": "The branch that torch.where did not take",
    "invalid_domain": "Outside the function's domain",
    "overflow_exp": "Exponential overflow",
    "overflow_low_precision": "Overflow of a low-precision type",
    "exploding_activation": "Activations that grew without bound",
    "masked_softmax": "Softmax over a row that is masked completely",
    "empty_reduction": "Mean or variance of nothing",
    "bad_input": "Bad values in the input",
    "bad_label": "Bad values in the labels",
    "bad_init": "A parameter that was never initialised well",
    "bad_checkpoint": "Bad values in a loaded checkpoint",
    "uninitialised_memory": "Memory that was read before it was written",
    "degenerate_linalg": "A matrix that the decomposition cannot handle",
    "custom_function_bug": "A fault in a custom autograd function",
    "optimizer_eps": "The optimizer's eps is too small",
    "nonfinite_lr": "The learning rate is not finite",
    "lr_too_high": "Learning rate too high",
    "exploding_gradient": "Exploding gradient",
    "vanishing_gradient": "Vanishing gradient",
    "dead_relu": "Dead ReLU units",
    "saturated_activation": "Saturated activations",
    "params_not_in_optimizer": "Parameters that no optimizer updates",
    "imbalanced_data": "Imbalanced data",
    "hardware_fault": "Hardware fault suspected",
    "unknown": "Cause not recognised",
}

"""The named reason behind an origin, judged by the operation and the values that went into it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nanwatch.postmortem.provenance import Found
from nanwatch.postmortem.remedies import FIX_OF_CTC, REMEDIES
from nanwatch.postmortem.tracer import Event
from nanwatch.records import Cause, Phase, TensorSummary

RUNAWAY_EXPONENT = 1e3
HUGE = 1e6
"""A finite input of this size makes overflow the result of growth, not of the operation."""


@dataclass(frozen=True)
class Evidence:
    """What the judges look at."""

    phase: Phase
    op: str
    """Forward operation without `aten::`, leading underscores and a trailing one: `log`, `softmax`, `addmm`."""
    event: Event
    found: Found
    events: list[Event]

    @property
    def inputs(self) -> tuple[TensorSummary, ...]:
        return self.event.inputs

    def input(self, *names: str) -> TensorSummary | None:
        return next((t for t in self.inputs if t.name in names), None)


Judge = Callable[[Evidence], Cause | None]

_LOGS = {"log", "log2", "log10", "log1p", "xlogy", "special_xlog1py", "logit", "binary_cross_entropy"}
_DIVISIONS = {"div", "reciprocal", "rsqrt", "true_divide", "floor_divide", "remainder", "fmod", "atan2", "addcdiv"}
_ROOTS = {"sqrt", "linalg_vector_norm", "norm", "cdist_forward", "cdist", "euclidean_dist", "pdist_forward", "hypot",
          "native_norm", "std", "rsqrt"}  # fmt: skip
_EXPONENTIALS = {"exp", "exp2", "expm1", "sinh", "cosh", "special_entr", "softplus", "logaddexp", "logcumsumexp"}
_SOFTMAXES = {"softmax", "log_softmax", "safe_softmax", "softmax_data", "logsumexp", "scaled_dot_product_attention",
              "scaled_dot_product_flash_attention_for_cpu", "scaled_dot_product_flash_attention",
              "scaled_dot_product_efficient_attention", "scaled_dot_product_attention_math"}  # fmt: skip
_REDUCTIONS = {"mean", "var", "std", "var_mean", "std_mean", "nll_loss_forward", "nll_loss2d_forward", "max", "min",
               "native_batch_norm", "median", "nanmean"}  # fmt: skip
_LINALG = {"linalg_eigh", "linalg_eig", "linalg_svd", "linalg_qr", "linalg_inv_ex", "linalg_cholesky_ex",
           "linalg_solve_ex", "cholesky", "lu_solve", "linalg_lu_factor_ex", "triangular_solve", "linalg_det",
           "linalg_slogdet", "slogdet", "logdet", "linalg_eigvalsh", "symeig", "linalg_lstsq"}  # fmt: skip
_DOMAINS = {
    "acos",
    "asin",
    "atanh",
    "acosh",
    "lgamma",
    "digamma",
    "polygamma",
    "erfinv",
    "special_erfinv",
    "sqrt",
    "log",
}
_POWERS = {"pow", "float_power"}
_SELECTIONS = {"aten::where", "aten::masked_fill", "aten::masked_fill_", "aten::index", "aten::masked_select"}
_CASTS = {"to_copy", "to", "copy"}


def name_cause(phase: Phase, event: Event | None, found: Found, events: list[Event], facts: dict[str, object]) -> Cause:
    """The cause of an origin; label `unknown` when no judge recognises it.

    `facts` says what the operation alone cannot: `leaf` (name of the bad input), `is_label`, `never_updated`.
    """
    if phase == "data":
        return _bad_data(facts)
    if phase == "params":
        return _bad_parameter(facts)
    if event is None:
        return _cause("unknown", "possible", "the operation could not be found")
    evidence = Evidence(phase, short(event.located.op), event, found, events)
    judges = _BACKWARD if event.backward else _FORWARD
    for judge in judges:
        cause = judge(evidence)
        if cause is not None:
            return cause
    return _cause("unknown", "possible", f"{event.op} gave a non-finite value; no known pattern fits")


def short(op: str) -> str:
    """`aten::_log_softmax` -> `log_softmax`, `aten::div_` -> `div`."""
    return op.rpartition("::")[2].strip("_").removeprefix("foreach_")


# --- judges of forward operations ---


def _uninitialised(e: Evidence) -> Cause | None:
    if not e.event.unwritten:
        return None
    return _cause(
        "uninitialised_memory",
        "certain",
        f"{e.event.op} returns memory as it lies, and it was read before it was written",
    )


def _half(e: Evidence) -> Cause | None:
    overflowed = e.event.half and e.event.value == "inf" and not (_LOGS | _DIVISIONS | _ROOTS) & {e.op}
    cast = e.op in _CASTS and e.event.value == "inf"
    if not (overflowed or cast):
        return None
    output = e.event.output
    limit = {"float16": "65,504", "bfloat16": "3.4e38"}.get(output.dtype if output else "", "its largest value")
    return _cause(
        "overflow_low_precision",
        "certain",
        f"the result does not fit into {output.dtype if output else 'the type'}, whose limit is {limit}",
        *_ranges(e),
    )


def _ctc(e: Evidence) -> Cause | None:
    if "ctc_loss" not in e.op:
        return None
    why = "the CTC loss is infinite when a target is longer than its input (repeated labels need a blank between them)"
    return replace(_cause("bad_label", "likely", why), fix=(*REMEDIES["bad_label"], FIX_OF_CTC))


def _log(e: Evidence) -> Cause | None:
    if e.op not in _LOGS:
        return None
    x = e.input("self", "input", "other")
    limit = -1.0 if e.op == "log1p" else 0.0
    low = None if x is None else x.min
    if low is not None and low < limit:
        return _cause("invalid_domain", "certain", f"{e.op} of {low:.6g}: it is defined above {limit:g} only")
    return _cause("log_of_zero", "certain", f"{e.op} of exactly {limit:g} is -inf", *_ranges(e))


def _masked(e: Evidence) -> Cause | None:
    if e.op not in _SOFTMAXES:
        return None
    if any(s.state == "inf" for s in e.event.sources) or "attention" in e.op:
        return _cause(
            "masked_softmax",
            "certain",
            "a whole row is -inf: every position of it is masked, and softmax of nothing is 0 / 0",
        )
    return None


def _empty(e: Evidence) -> Cause | None:
    if e.op not in _REDUCTIONS:
        return None
    if e.event.empty_input:
        return _cause("empty_reduction", "certain", f"{e.op} over no elements: the tensor it got is empty")
    if "nll_loss" in e.op:
        return _cause("empty_reduction", "likely", "every target is ignored, so the mean is taken over no elements")
    if e.op in {"var", "std", "var_mean", "std_mean"}:
        return _cause("empty_reduction", "certain", f"{e.op} over a single element divides by n - 1 = 0")
    return None


def _division(e: Evidence) -> Cause | None:
    if e.op not in _DIVISIONS:
        return None
    divisor = e.input("other", "tensor2") or e.input("self")
    if e.op == "rsqrt" and divisor is not None and divisor.min is not None and divisor.min < 0:
        return _cause("invalid_domain", "certain", f"rsqrt of {divisor.min:.6g}")
    zero = (
        divisor is not None and divisor.min is not None and divisor.max is not None and divisor.min <= 0 <= divisor.max
    )
    if zero or divisor is None:
        what = "0 / 0" if e.event.value == "nan" else "a division by zero"
        return _cause("division_by_zero", "certain", f"{what}: the divisor holds zeros", *_ranges(e))
    return _cause("exploding_activation", "likely", "the quotient is larger than the type can hold", *_ranges(e))


def _power(e: Evidence) -> Cause | None:
    if e.op not in _POWERS:
        return None
    x = e.input("self")
    if e.event.value == "nan" and x is not None and x.min is not None and x.min < 0:
        return _cause("invalid_domain", "certain", f"a fractional power of {x.min:.6g}")
    if x is not None and x.min is not None and x.max is not None and x.min <= 0 <= x.max and x.max < HUGE:
        return _cause("division_by_zero", "likely", "a negative power of zero")
    return _cause("exploding_activation", "likely", "the power is larger than the type can hold", *_ranges(e))


def _domain(e: Evidence) -> Cause | None:
    if e.op not in _DOMAINS or e.event.value != "nan":
        return None
    x = e.input("self")
    shown = "" if x is None or x.min is None or x.max is None else f" (its input lies in {x.min:.6g} ... {x.max:.6g})"
    return _cause("invalid_domain", "certain", f"{e.op} outside of where it is defined{shown}")


def _exponential(e: Evidence) -> Cause | None:
    if e.op not in _EXPONENTIALS:
        return None
    x = e.input("self")
    shown = "" if x is None or x.max is None else f" of {x.max:.6g}"
    cause = _cause("overflow_exp", "certain", f"{e.op}{shown} is larger than the type can hold (float32: e^88.7)")
    if x is not None and x.max is not None and x.max > RUNAWAY_EXPONENT:
        # No bound on the exponent mends a divergence: what made it grow comes first.
        return replace(cause, why=(*cause.why, "an exponent of this size has run away"), fix=cause.fix[::-1])
    return cause


def _linalg(e: Evidence) -> Cause | None:
    if e.op not in _LINALG:
        return None
    return _cause("degenerate_linalg", "likely", f"{e.op} of a matrix that is singular or has repeated eigenvalues")


def _zero_times_infinity(e: Evidence) -> Cause | None:
    if e.event.value != "nan" or not any(s.state == "inf" for s in e.event.sources):
        return None
    softmaxed = any(short(e.events[i].op) in _SOFTMAXES or "masked_fill" in e.events[i].op for i in e.found.reached)
    if softmaxed:
        return _cause("masked_softmax", "likely", f"{e.op} meets the -inf of a mask: 0 * -inf and inf - inf are NaN")
    return _cause("invalid_domain", "likely", f"{e.op} of infinities: 0 * inf and inf - inf are NaN")


def _batch_norm(e: Evidence) -> Cause | None:
    if "batch_norm" not in e.op:
        return None
    variance = e.input("running_var")
    if variance is not None and variance.min is not None and variance.min < 0:
        return _cause("bad_checkpoint", "likely", f"running_var holds {variance.min:.6g}; a variance is never negative")
    return None


def _growth(e: Evidence) -> Cause | None:
    if e.event.value != "inf":
        return None
    return _cause(
        "exploding_activation", "likely", f"the result of {e.op} is larger than the type can hold", *_ranges(e)
    )


# --- judges of backward operations ---


def _custom(e: Evidence) -> Cause | None:
    if not e.event.own_code:
        return None
    return _cause(
        "custom_function_bug",
        "likely",
        "the value is made in the backward of an autograd.Function of the program's own",
    )


def _root_gradient(e: Evidence) -> Cause | None:
    if e.op not in _ROOTS:
        return None
    return _cause("sqrt_zero_grad", "certain", f"the gradient of {e.op} at 0 is 1 / 0", *_ranges(e))


def _power_gradient(e: Evidence) -> Cause | None:
    return (
        _cause("pow_zero_grad", "likely", "the gradient of a power below 1 at 0 is infinite")
        if e.op in _POWERS
        else None
    )


def _where_gradient(e: Evidence) -> Cause | None:
    forward = e.event.located
    selected = _flows_into(e.events, forward, _SELECTIONS)
    if not (selected and (e.event.zero_gradient or e.op in _LOGS | _DIVISIONS | _EXPONENTIALS | _DOMAINS)):
        return None
    return _cause(
        "where_gradient", "certain" if e.event.zero_gradient else "likely",
        f"{e.op} is computed for every element and only some are kept; the gradient of the others is 0 * inf = NaN",
    )  # fmt: skip


def _saturated_gradient(e: Evidence) -> Cause | None:
    if e.op in _LOGS:
        return _cause("log_of_zero", "likely", f"the gradient of {e.op} at 0 is 1 / 0", *_ranges(e))
    if e.op in _DIVISIONS:
        return _cause(
            "division_by_zero",
            "likely",
            "the gradient of a division is itself divided by the divisor, which is (nearly) zero",
        )
    if e.op in _DOMAINS:
        return _cause(
            "invalid_domain", "likely", f"the gradient of {e.op} is infinite at the end of where it is defined"
        )
    if e.op in _EXPONENTIALS:
        return _cause("overflow_exp", "likely", f"the gradient of {e.op} is as large as its result")
    return None


def _big_gradient(e: Evidence) -> Cause | None:
    if e.event.half:
        return _cause("overflow_low_precision", "likely", "the gradient does not fit into the 16-bit type", *_ranges(e))
    if e.event.value == "inf":
        return _cause(
            "exploding_gradient", "likely", f"the gradient of {e.op} is larger than the type can hold", *_ranges(e)
        )
    return None


_FORWARD: tuple[Judge, ...] = (
    _uninitialised, _half, _ctc, _batch_norm, _log, _masked, _empty, _division, _power, _domain, _exponential, _linalg,
    _zero_times_infinity, _growth,
)  # fmt: skip
_BACKWARD: tuple[Judge, ...] = (
    _custom, _ctc, _root_gradient, _power_gradient, _linalg, _where_gradient, _saturated_gradient, _big_gradient,
    _zero_times_infinity,
)  # fmt: skip


# --- what needs no operation ---


def _bad_data(facts: dict[str, object]) -> Cause:
    label = "bad_label" if facts.get("is_label") else "bad_input"
    rows = facts.get("rows") or ()
    where = f" in row(s) {', '.join(map(str, rows))}" if isinstance(rows, tuple) and rows else ""
    return _cause(
        label, "certain", f"{facts.get('leaf')} holds {facts.get('value')} before the model has touched it{where}"
    )


def _bad_parameter(facts: dict[str, object]) -> Cause:
    name = facts.get("leaf")
    if facts.get("never_updated") and not facts.get("known_at_attach"):
        return _cause(
            "uninitialised_memory",
            "likely",
            f"{name} was added during training and never updated: torch.empty without initialisation looks like this",
        )
    if facts.get("never_updated"):
        return _cause(
            "bad_init",
            "likely",
            f"{name} was never updated by an optimizer: it came so from its initialisation or a checkpoint",
        )
    return _cause("bad_checkpoint", "possible", f"{name} was not finite when the step began")


def optimizer_cause(
    op: str, settings: dict[str, object], *, nonfinite_setting: str | None, zero_divisor: bool
) -> Cause:
    """The cause of a value made by the optimizer's own step."""
    if nonfinite_setting is not None:
        return _cause(
            "nonfinite_lr", "certain", f"{nonfinite_setting} of the optimizer is {settings.get(nonfinite_setting)}"
        )
    if zero_divisor:
        return _cause(
            "optimizer_eps",
            "certain",
            f"{op} divides by zero: eps = {settings.get('eps')} is 0 in this type, and so is the second moment",
        )
    return _cause(
        "lr_too_high", "possible", f"{op} made the parameter larger than its type can hold (lr = {settings.get('lr')})"
    )


def unknown(why: str) -> Cause:
    return _cause("unknown", "possible", why)


def _flows_into(events: list[Event], start: Event, ops: set[str], steps: int = 4) -> bool:
    """Whether the value of a forward event is read by one of `ops` within a few operations."""
    reached = {start.index}
    for event in events[start.index + 1 : start.index + 1 + 8 * steps]:
        if any(s.event in reached for s in event.sources) and not event.backward:
            if event.op in ops:
                return True
            reached.add(event.index)
    return False


def _ranges(e: Evidence) -> tuple[str, ...]:
    """The inputs' ranges in words, for the reader to check."""
    return tuple(
        f"{t.name} {list(t.shape)} {t.dtype}: {t.min:.6g} ... {t.max:.6g}"
        for t in e.inputs
        if t.min is not None and t.max is not None
    )[:3]


def _cause(label: str, confidence: str, *why: str) -> Cause:
    return Cause(label, confidence, tuple(why), REMEDIES.get(label, REMEDIES["unknown"]))  # type: ignore[arg-type]

"""Judges of a value that a backward operation made: they name the forward operation whose gradient it is."""

from __future__ import annotations

import math
from collections.abc import Callable

from nanwatch.postmortem.case import Case, Ruling, reaches, shown_span
from nanwatch.postmortem.causes_forward import infinity_of_the_program, judge_forward
from nanwatch.postmortem.causes_growth import grown
from nanwatch.postmortem.closeup import Span
from nanwatch.postmortem.op_families import (
    ATTENTIONS,
    DIVISIONS,
    EXPONENTIALS,
    LINALG,
    LOGS,
    NORMALISATIONS,
    POLES,
    POWERS,
    ROOTS,
    SELECTIONS,
    SOFTMAXES,
    WEIGHT_NORMS,
)

_TINY = 0.5
"""A divisor below limit ** -0.5 (5e-20 in float32) has a square whose inverse overflows."""


def judge_backward(case: Case) -> Ruling | None:
    """The first judge that recognises the case. A hook of the program's own is judged as forward code is."""
    if case.event.own_code and not case.event.own_function:
        return judge_forward(case)
    return next((r for judge in _JUDGES if (r := judge(case)) is not None), None)


def _own_function(case: Case) -> Ruling | None:
    if not case.event.own_function:
        return None
    # What it does is judged as forward code is, the label stays: the mistake is in the function's backward.
    what = judge_forward(case)
    did = "makes the value in the backward of an autograd.Function of the program's own"
    return Ruling("custom_function_bug", "likely", f"{did}: it {what.did}" if what else did)


def _ctc(case: Case) -> Ruling | None:
    return judge_forward(case) if "ctc_loss" in case.op else None


def _too_narrow(case: Case) -> Ruling | None:
    if not case.event.closeup.fits_float32:
        return None
    did = f"gives a gradient that does not fit into {case.dtype}; in float32 it is finite"
    return Ruling("overflow_low_precision", "certain", did)


def _not_taken(case: Case) -> Ruling | None:
    """0 * inf behind a `where`: the branch that was not taken gets a gradient of zero."""
    selection = reaches(case.events, case.event.located, SELECTIONS)
    if selection is None or not case.incoming_is_zero:
        return None
    did = "is computed for every element and only some are kept; the gradient of the others is 0 * inf = NaN"
    x = case.kept("self") or case.kept("result")
    more = () if x is None else (f"Where it went bad, it was computed of {shown_span(x)}.",)
    return Ruling("where_gradient", "certain", did, more)


def _root(case: Case) -> Ruling | None:
    if case.op not in ROOTS:
        return None
    result = case.kept("result") or case.kept("self") or _zero_operand(case)
    if result is not None and result.least > 0:
        return None
    did = f"is the root of 0.0, and its gradient is 1 / 0 ({case.op})"
    return Ruling("sqrt_zero_grad", "likely" if result is None else "certain", did)


def _power(case: Case) -> Ruling | None:
    if case.op not in POWERS:
        return None
    base, exponent = case.kept("self"), case.kept("exponent")
    if base is None:
        return None
    did = f"raises {shown_span(base)} to the power {shown_span(exponent)}"
    if base.least == 0 and (exponent is None or exponent.low < 1):
        if exponent is not None and exponent.high < 0:
            return Ruling("division_by_zero", "certain", f"{did}, which divides by zero")
        return Ruling("pow_zero_grad", "certain", f"{did}, and its gradient divides by zero there")
    if base.low < 0 and case.is_nan:
        return Ruling("invalid_domain", "likely", f"{did}, and its gradient is not defined there")
    if exponent is not None and exponent.high < 0 and base.least < 1:
        return Ruling("division_by_zero", "likely", f"{did}, which divides by nearly zero")
    return None


def _log(case: Case) -> Ruling | None:
    if case.op not in LOGS:
        return None
    x = case.kept("other" if "xlog" in case.op else "self")
    if x is None and (divisor := _zero_operand(case)) is not None and divisor.is_zero:
        return Ruling("log_of_zero", "certain", f"takes {case.op} where its gradient is 1 / 0")
    end = -1.0 if "log1p" in case.op else 0.0
    ends = (end, 1.0) if case.op == "logit" else (end,)
    if x is None or x.low in ends or x.high in ends:
        at = shown_span(x) if x is not None else "0.0"
        return Ruling("log_of_zero", "certain" if x else "likely", f"takes {case.op} of {at}: the gradient is 1 / 0")
    if x.least < case.limit**-_TINY:
        did = f"takes {case.op} of {shown_span(x)}, so close to zero that the gradient, 1 / x, overflows"
        return Ruling("log_of_zero", "likely", did)
    return None


def _division(case: Case) -> Ruling | None:
    if case.op == "atan2":
        did = "takes the angle of the point (0, 0), where its gradient is 0 / 0"
        y, x = case.kept("self"), case.kept("other")
        near = y is not None and x is not None and max(y.least, x.least) < case.limit**-_TINY
        return Ruling("division_by_zero", "certain", did) if near else None
    if case.op not in DIVISIONS:
        return None
    if case.op in {"reciprocal", "rsqrt"}:
        result = case.kept("result")
        if result is None or result.absmax < case.limit**0.3:
            return None
        return Ruling("division_by_zero", "likely", f"divides by nearly zero: it gives {shown_span(result)}")
    divisor = case.kept("tensor2") or case.kept("other") or _zero_operand(case)
    if divisor is None or divisor.least >= case.limit**-_TINY:
        return None
    at = "0.0" if divisor.least == 0 else shown_span(divisor)
    exact = divisor.least == 0
    did = f"divides by {at}, and its gradient divides by that once more"
    return Ruling("division_by_zero", "certain" if exact else "likely", did)


def _zero_operand(case: Case) -> Span | None:
    """What the backward operation itself divided by."""
    return case.at_bad("other") if case.event.op.startswith("aten::div") else None


def _domain(case: Case) -> Ruling | None:
    if case.op not in POLES:
        return None
    x = case.kept("self") or case.kept("result")
    did = f"takes {case.op} of {shown_span(x)}: its gradient is infinite at the end of where it is defined"
    return grown(case) or Ruling("invalid_domain", "certain" if x is not None else "likely", did)


def _exponential(case: Case) -> Ruling | None:
    if case.op not in EXPONENTIALS:
        return None
    result = case.kept("result")
    if result is None or result.absmax < math.sqrt(case.limit):
        return None
    did = f"takes {case.op} and gets {shown_span(result)}; its gradient is as large as its result"
    return Ruling("overflow_exp", "likely", did)


def _masked(case: Case) -> Ruling | None:
    if case.op in ATTENTIONS and any(t.nonfinite for t in case.inputs):
        return Ruling("masked_softmax", "likely", "got a row that is masked throughout")
    if case.op not in SOFTMAXES:
        return None
    kept = (case.kept("self"), case.kept("result"))
    if any(k is not None and k.low == -math.inf for k in kept) or case.reads_infinity:
        return Ruling("masked_softmax", "likely", "got a row that is -inf throughout; its gradient is inf - inf")
    return None


def _linalg(case: Case) -> Ruling | None:
    if case.op not in LINALG:
        return None
    did = f"decomposes or inverts ({case.op}) a matrix that is singular or has repeated eigenvalues; there its gradient"
    return Ruling("degenerate_linalg", "likely", f"{did} divides by zero")


def _normalisation(case: Case) -> Ruling | None:
    if case.op not in NORMALISATIONS and case.op not in WEIGHT_NORMS:
        return None
    kept = [case.kept(n) for n in ("result1", "result2", "norms", "eps")]
    if any(k is not None and (k.absmax == math.inf or k.is_zero) for k in kept) or case.op in WEIGHT_NORMS:
        did = "divides by the spread of values that are all the same, or by the norm of zeros"
        return Ruling("division_by_zero", "likely", did)
    return None


Judge = Callable[[Case], Ruling | None]

_JUDGES: tuple[Judge, ...] = (
    _own_function, _ctc, _too_narrow, _not_taken, _root, _power, _log, _division, _domain, _exponential, _masked,
    _linalg, _normalisation, infinity_of_the_program, grown,
)  # fmt: skip

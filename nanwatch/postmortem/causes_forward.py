"""Judges of a value that a forward operation (or an optimizer's, or a hook's) made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from nanwatch.postmortem.case import Case, Ruling, one_of, ranges, reaches, shown, shown_span
from nanwatch.postmortem.causes_growth import grown, largest_input
from nanwatch.postmortem.closeup import Span
from nanwatch.postmortem.op_families import (
    ATTENTIONS,
    DIVISIONS,
    EXPONENTIALS,
    LINALG,
    LOGS,
    NLL_LOSSES,
    NORMALISATIONS,
    POLES,
    POWERS,
    REDUCTIONS,
    SELECTIONS,
    SOFTMAXES,
    SPREADS,
    WEIGHT_NORMS,
    short,
)
from nanwatch.postmortem.remedies import FIX_OF_CTC, FIX_OF_RUNAWAY, REMEDIES
from nanwatch.postmortem.tensors import is_mask

Judge = Callable[[Case], Ruling | None]

RUNAWAY_EXPONENT = 1e3
_KEPT_AWAY = "A selection keeps the value out of the loss, but not out of the gradient: there 0 * inf is NaN."
_CASTS = frozenset({"to_copy", "to", "copy"})
_MASKING = frozenset({"masked_fill", "where", "triu", "tril", "index_fill"})
_LONG_EXPONENT = 64
_MODEST_BASE = 1e3


def judge_forward(case: Case) -> Ruling | None:
    """The first judge that recognises the case."""
    ruling = next((r for judge in _JUDGES if (r := judge(case)) is not None), None)
    kept_away = not case.event.backward and any(e.backward for e in case.found.path)
    if ruling is None or not kept_away or reaches(case.events, case.event, SELECTIONS) is None:
        return ruling
    return replace(ruling, more=(*ruling.more, _KEPT_AWAY), fix=(*ruling.fix, REMEDIES["where_gradient"][0]))


def _uninitialised(case: Case) -> Ruling | None:
    if not case.event.unwritten:
        return None
    did = f"takes memory as it lies ({case.event.op}), and it was read before it was written"
    return Ruling("uninitialised_memory", "certain", did)


def _too_narrow(case: Case) -> Ruling | None:
    output = case.event.output
    if output is None:
        return None
    cast = case.op in _CASTS and not case.is_nan and not case.reads_infinity
    if cast:
        did = f"turns {shown(largest_input(case))} into {case.dtype}, whose largest number is {shown(case.limit)}"
        return Ruling("overflow_low_precision", "certain", did)
    if not case.event.closeup.fits_float32:
        return None
    did = f"gives more than {shown(case.limit)}, the largest number of {case.dtype}; in float32 the result is finite"
    return Ruling("overflow_low_precision", "certain", did, ranges(case))


def _ctc(case: Case) -> Ruling | None:
    if "ctc_loss" not in case.op:
        return None
    did = "is infinite: a target is longer than its input (repeated labels need a blank between them)"
    return Ruling("bad_label", "likely", did, fix=(FIX_OF_CTC,))


def _negative_variance(case: Case) -> Ruling | None:
    variance = case.input("running_var")
    if "batch_norm" not in case.op or variance is None or variance.min is None or variance.min >= 0:
        return None
    did = f"takes the root of running_var, which holds {shown(variance.min)}; a variance is never negative"
    return Ruling("bad_checkpoint", "likely", did)


def _log(case: Case) -> Ruling | None:
    if case.op not in LOGS:
        return None
    x = case.at_bad("other") if "xlog" in case.op else case.at_bad("self")
    end = -1.0 if "log1p" in case.op else 0.0
    if case.is_nan:
        below = x is None or x.low < end or case.op == "logit"
        did = f"takes {case.op} of {shown_span(x)}, outside of where it is defined"
        return Ruling("invalid_domain", "likely" if x is None else "certain", did) if below else None
    if case.op == "special_entr":
        return Ruling("invalid_domain", "certain", f"takes the entropy of {shown_span(x)}, a negative probability")
    if x is None:
        return Ruling("log_of_zero", "likely", f"takes {case.op} of {shown(end)}")
    if x.low == end or case.op == "logit":
        return Ruling("log_of_zero", "certain", f"takes {case.op} of {shown_span(x)}")
    return None


def _empty(case: Case) -> Ruling | None:
    if case.op in REDUCTIONS and case.event.empty_input:
        return Ruling("empty_reduction", "certain", f"takes {case.op} over no elements: the tensor it gets is empty")
    if case.op in NLL_LOSSES and case.is_nan and case.number("result1") == 0:
        did = "takes the mean over no targets: each is ignored (ignore_index) or has weight 0"
        return Ruling("empty_reduction", "certain", did)
    if case.op in SPREADS and case.is_nan and _degrees_of_freedom(case) <= 0:
        did = f"takes {case.op} of a single element, which divides by n - 1 = 0"
        return Ruling("empty_reduction", "certain", did)
    if case.op == "segment_reduce":
        return Ruling("empty_reduction", "likely", "reduces a segment without elements")
    return None


def _degrees_of_freedom(case: Case) -> float:
    output = case.event.output
    if not case.inputs or output is None:
        return 1.0
    count = math.prod(case.inputs[0].shape) / max(1, math.prod(output.shape))
    correction = case.number("correction")
    unbiased = case.number("unbiased")
    return count - (correction if correction is not None else 1.0 if unbiased is None else unbiased)


def _masked(case: Case) -> Ruling | None:
    if one_of(case.op, SOFTMAXES):
        row = case.at_bad("self")
        if case.is_nan and row is not None and row.high == -math.inf:
            did = "gets a row that is -inf throughout: every position of it is masked, and softmax of nothing is 0 / 0"
            return Ruling("masked_softmax", "certain", did)
        if case.is_nan and row is not None and row.high == math.inf and case.reads_infinity:
            return Ruling("masked_softmax", "likely", "gets +inf among the scores, and inf / inf is NaN")
    masked = any(t.nonfinite for t in case.inputs if "mask" in t.name or "bias" in t.name) or case.reads_infinity
    if one_of(case.op, ATTENTIONS) and masked:
        did = "gets a row of scores that is masked throughout, and softmax of nothing is 0 / 0"
        return Ruling("masked_softmax", "likely", did)
    return None


def _division(case: Case) -> Ruling | None:
    if case.op not in DIVISIONS or case.reads_infinity:
        return None
    alone = case.op in {"reciprocal", "rsqrt"}
    divisor = case.at_bad("self") if alone else case.at_bad("tensor2") or case.at_bad("other")
    if divisor is None:
        return None
    if case.op == "rsqrt" and divisor.low < 0:
        return Ruling("invalid_domain", "certain", f"takes 1 / sqrt of {shown_span(divisor)}")
    dividend = None if alone else case.at_bad("tensor1") or case.at_bad("self")
    of = "1.0" if alone else shown_span(dividend)
    by = f"the root of {shown_span(divisor)}" if case.op == "rsqrt" else shown_span(divisor)
    if divisor.is_zero:
        return Ruling("division_by_zero", "certain", f"divides {of} by {by}", ranges(case)[:1])
    large = dividend is not None and dividend.absmax > math.sqrt(case.limit)
    if divisor.absmax < 1 and not large and not case.is_nan:
        did = f"divides {of} by {by}, so close to zero that the quotient does not fit into {case.dtype}"
        return Ruling("division_by_zero", "likely", did)
    return None


def _power(case: Case) -> Ruling | None:
    if case.op not in POWERS or case.reads_infinity:
        return None
    base, exponent = case.at_bad("self"), case.at_bad("exponent") or Span(2.0, 2.0, 2.0)
    if base is None:
        return None
    did = f"raises {shown_span(base)} to the power {shown_span(exponent)}"
    if case.is_nan:
        return Ruling("invalid_domain", "certain", did) if base.low < 0 else None
    if exponent.high < 0 and base.absmax < 1:
        return Ruling("division_by_zero", "certain" if base.is_zero else "likely", f"{did}, which divides by it")
    if exponent.absmax > _LONG_EXPONENT and base.absmax < _MODEST_BASE:
        return Ruling("overflow_exp", "certain", f"{did}, more than {case.dtype} can hold")
    return grown(case) or Ruling("exploding_activation", "likely", f"{did}, more than {case.dtype} can hold")


def _domain(case: Case) -> Ruling | None:
    x = case.at_bad("self")
    if case.op == "sqrt" and case.is_nan:
        return Ruling("invalid_domain", "certain", f"takes the square root of {shown_span(x)}")
    if case.op not in POLES or case.reads_infinity:
        return None
    if x is not None and case.op in {"lgamma", "mvlgamma"} and x.low > 0 and (too_large := grown(case)) is not None:
        return too_large
    did = f"takes {case.op} of {shown_span(x)}; it is defined {POLES[case.op]}"
    return Ruling("invalid_domain", "certain", did)


def _exponential(case: Case) -> Ruling | None:
    if case.op not in EXPONENTIALS or case.is_nan or case.reads_infinity:
        return None
    x = case.at_bad("self")
    if case.op in {"softplus", "logaddexp"}:
        return grown(case)
    did = f"takes {case.op} of {shown_span(x)}, more than {case.dtype} can hold"
    if case.op == "exp":
        did += f" (from exp({math.log(case.limit):.4g}) on)"
    runaway = x is not None and x.absmax > RUNAWAY_EXPONENT
    if not runaway:
        return Ruling("overflow_exp", "certain", did)
    return Ruling("overflow_exp", "certain", did, ("An exponent of this size has run away.",), (FIX_OF_RUNAWAY,))


def _linalg(case: Case) -> Ruling | None:
    if case.op not in LINALG:
        return None
    did = f"decomposes or inverts ({case.op}) a matrix that is singular or nearly so"
    return grown(case) or Ruling("degenerate_linalg", "likely", did, ranges(case))


def _normalisation(case: Case) -> Ruling | None:
    if case.op in NORMALISATIONS and not case.reads_infinity and case.number("eps") == 0:
        did = f"divides by the spread of values that are all the same ({case.op} with eps = 0)"
        return grown(case) or Ruling("division_by_zero", "likely", did)
    if case.op in WEIGHT_NORMS:
        return grown(case) or Ruling("division_by_zero", "likely", "divides a weight of zeros by its norm")
    return None


def infinity_of_the_program(case: Case) -> Ruling | None:
    """An infinity that the program wrote on purpose turned into NaN, or got into the loss."""
    if not case.reads_infinity:
        return _written_number(case)
    turned = "0 * inf and inf - inf are NaN" if case.is_nan else "it gets into the result"
    if _comes_from_mask(case):
        return Ruling("masked_softmax", "likely", f"meets the infinity of a mask: {turned}")
    did = f"meets an infinity that the program wrote itself: {turned}"
    return Ruling("invalid_domain" if case.is_nan else "unknown", "possible", did)


def _comes_from_mask(case: Case) -> bool:
    for index in case.found.reached:
        event = case.events[index]
        if one_of(short(event.op), SOFTMAXES, ATTENTIONS, _MASKING):
            return True
        if any(s.leaf is not None and s.leaf.dim() and s.state == "inf" and is_mask(s.leaf) for s in event.sources):
            return True
    return False


def _written_number(case: Case) -> Ruling | None:
    """NaN or inf as a plain number among the arguments."""
    if not case.event.nonfinite_scalar:
        return None
    before = [short(e.op) for e in case.events[max(0, case.event.index - 4) : case.event.index]]
    if "linalg_slogdet" in before:
        return Ruling("invalid_domain", "certain", "takes the log of a determinant that is negative")
    number = next((v for v in case.event.closeup.numbers.values() if not math.isfinite(v)), math.nan)
    if number == -math.inf and case.op in _MASKING:
        return Ruling("masked_softmax", "likely", "writes -inf as a mask, and it gets into the result")
    did = f"is given the number {number}, which the program wrote or computed in Python"
    return Ruling("unknown", "possible", did)


_JUDGES: tuple[Judge, ...] = (
    _uninitialised, _too_narrow, _ctc, _negative_variance, _log, _empty, _masked, _division, _power, _domain,
    _exponential, _linalg, _normalisation, infinity_of_the_program, grown,
)  # fmt: skip

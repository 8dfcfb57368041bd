"""Rules on one series: its name, the tensors it is read for, and how its bad values are put into words."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from nanwatch.rules.advice import Direction, advice, label, readable
from nanwatch.rules.rule import Finding, Reading, Rule
from nanwatch.rules.series import VECTORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nanwatch.rules.series import Moment

MAX_INSTANCES = 10_000
_SINGLE = ("",)


class MetricRule(Rule):
    """A rule on one series."""

    metric: str = Field(
        min_length=1,
        max_length=200,
        description="loss, grad_norm, grad_norm_clipped, lr, loss_scale, step_time_s, overhead; "
        "grad_l2 or grad_absmax of every tensor; or any name given to watch.log().",
    )
    tensors: str = Field(
        default="*", max_length=200, description="For grad_l2 and grad_absmax: which tensors, as a glob."
    )


class MetricReader:
    """Reads one metric out of moments: one value, or one for each chosen tensor."""

    def __init__(self, rule: MetricRule) -> None:
        self._metric = rule.metric
        self._glob = rule.tensors
        self._all_names: tuple[str, ...] = ()
        self._names: tuple[str, ...] = ()
        self._chosen_K: NDArray[np.intp] = np.zeros(0, dtype=np.intp)
        self.left_out = 0

    def read(self, moment: Moment) -> tuple[tuple[str, ...], NDArray[np.float64]] | None:
        """Instance names and their values, non-finite where there is nothing to compare; None if not measured."""
        if self._metric in VECTORS:
            values_K = moment.vectors_K.get(self._metric)
            if values_K is None:
                return None
            self._choose(moment.names)
            return self._names, values_K[self._chosen_K]
        value = moment.values.get(self._metric)
        return None if value is None else (_SINGLE, np.array([value]))

    def _choose(self, names: tuple[str, ...]) -> None:
        if names is self._all_names:
            return
        chosen = [k for k, name in enumerate(names) if fnmatchcase(name, self._glob)]
        self.left_out = max(0, len(chosen) - MAX_INSTANCES)
        self._chosen_K = np.array(chosen[:MAX_INSTANCES], dtype=np.intp)
        self._names = tuple(names[k] for k in chosen[:MAX_INSTANCES])
        self._all_names = names


def finding(
    rule: MetricRule, reading: Reading, k: int, moment: Moment, *, direction: Direction, against: str
) -> Finding:
    """One bad value of a series in words; `against` says what it was compared with."""
    name = reading.names[k]
    what = f"{label(rule.metric)} of {name}" if name else label(rule.metric)
    bad = int(reading.bad_K.sum())
    others = f" {bad - 1} more tensors are out of their band at this step." if bad > 1 else ""
    known = advice(rule.metric, direction)
    text = f"{what} is {readable(reading.values_K[k])} at step {moment.step_total}, {against}.{others}"
    return Finding(
        metric=rule.metric,
        summary=f"{text} {known.fix[0]}" if known.fix else text,
        value=float(reading.values_K[k]),
        limit=float(reading.limits_K[k]),
        module=name.rpartition(".")[0] if name else None,
        param=name or None,
        cause=known.cause,
        fix=known.fix,
    )

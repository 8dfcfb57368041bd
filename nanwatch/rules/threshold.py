"""The family `threshold`: a series against fixed limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from nanwatch.rules.advice import readable
from nanwatch.rules.metric import MetricReader, MetricRule, finding
from nanwatch.rules.rule import Finding, Judge, Reading

if TYPE_CHECKING:
    from nanwatch.rules.series import Moment


class Threshold(MetricRule):
    """A series that leaves fixed limits.

    Watches: one series, or one value for each tensor (`grad_l2`, `grad_absmax`).

    Why it matters: where you know the healthy range of a number, nothing is simpler or more reliable than a limit.

    Fires when: the value is above `above` or below `below` for `for_steps` steps.

    Known problems: a fixed limit does not travel between models; take `spike` where you do not know the range.
    A non-finite value is no number: it neither fires nor resolves, the rule `nonfinite` speaks of it.

    Options: `metric`, `tensors`, `above`, `below`.

    Source: stef41/trainpulse (grad norm > 100, < 1e-7); Prometheus alerting rules for the states.
    """

    type: Literal["threshold"] = "threshold"
    above: float | None = Field(default=None, description="Fires above this.")
    below: float | None = Field(default=None, description="Fires below this.")

    @model_validator(mode="after")
    def _some_limit(self) -> Self:
        if self.above is None and self.below is None:
            raise ValueError("give 'above', 'below' or both")
        if self.above is not None and self.below is not None and self.below > self.above:
            raise ValueError(
                f"'below' ({self.below:g}) is larger than 'above' ({self.above:g}): every value would fire"
            )
        return self

    def judge(self) -> Judge:
        return _ThresholdJudge(self)


class _ThresholdJudge:
    def __init__(self, rule: Threshold) -> None:
        self._rule = rule
        self._reader = MetricReader(rule)

    def look(self, moment: Moment) -> Reading | None:
        read = self._reader.read(moment)
        if read is None:
            return None
        names, values_K = read
        known_K = np.isfinite(values_K)
        over_K = known_K & (values_K > (np.inf if self._rule.above is None else self._rule.above))
        under_K = known_K & (values_K < (-np.inf if self._rule.below is None else self._rule.below))
        above, below = (np.nan if limit is None else limit for limit in (self._rule.above, self._rule.below))
        upper = above if self._rule.above is not None else below
        limits_K = np.where(under_K, below, upper)
        return Reading(names, over_K | under_K, known_K, values_K, limits_K, left_out=self._reader.left_out)

    def explain(self, reading: Reading, k: int, moment: Moment) -> Finding:
        limit = float(reading.limits_K[k])
        low = self._rule.below is not None and reading.values_K[k] < self._rule.below
        against = f"{'below' if low else 'above'} the limit of {readable(limit)}"
        return finding(self._rule, reading, k, moment, direction="down" if low else "up", against=against)

    def snapshot(self) -> Any:
        return None

    def restore(self, state: Any) -> None:
        pass

"""The charts of the page: which there are, what each says, and what its lines are called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanwatch.records import Incident
from nanwatch.report.charts import Series, line_chart
from nanwatch.report.evidence import Magnitude
from nanwatch.report.figures import number_text
from nanwatch.report.history import History

_LIMITS = {"float16": 65_504.0}
_MIN_POINTS = 2


@dataclass(frozen=True)
class Panel:
    """One chart with its words. `legend`: names of the lines, when there is more than one."""

    title: str
    note: str
    svg: str
    legend: tuple[str, ...] = ()


@dataclass(frozen=True)
class Growth:
    """Where values grew along the step."""

    panel: Panel
    largest: tuple[Magnitude, ...]


def history_panels(history: History, step: int) -> list[Panel]:
    """Loss and gradient norm always, learning rate and loss scale where they change."""
    if len(history.steps_T) < _MIN_POINTS:
        return []
    wanted = [("Loss", ("loss",), True), ("Gradient norm", ("grad_norm", "grad_norm_clipped"), True)]
    wanted += [
        ("Learning rate", ("lr",), history.varies("lr")),
        ("Loss scale", ("loss_scale",), history.varies("loss_scale")),
    ]
    panels: list[Panel] = []
    for title, columns, is_wanted in wanted:
        series = [Series(_NAMES.get(c, c), history.columns[c], history.measured[c]) for c in columns if history.has(c)]
        if is_wanted and series and series[0].name != _NAMES["grad_norm_clipped"]:
            svg = line_chart(history.steps_T, series, label=f"{title} by step", mark_step=step)
            names = tuple(s.name for s in series) if len(series) > 1 else ()
            panels.append(Panel(title, _note(series[0], history, step), svg, names))
    return panels


def growth_panel(magnitudes: Sequence[Magnitude], incident: Incident) -> Growth | None:
    """The largest value after each operation of the step, in order of execution."""
    # Memory that is not written yet holds anything.
    magnitudes = [m for m in magnitudes if "empty" not in m.op]
    if len(magnitudes) < _MIN_POINTS:
        return None
    values = np.array([math.nan if m.absmax is None or m.value != "finite" else m.absmax for m in magnitudes])
    measured = np.array([m.absmax is not None for m in magnitudes])
    if not np.isfinite(values).any():
        return None
    first_bad = next((i for i, m in enumerate(magnitudes) if m.value != "finite"), None)
    dtypes = {t.dtype for t in incident.origin.inputs} if incident.origin else set()
    limits = [(limit, f"largest {name}: {number_text(limit)}") for name, limit in _LIMITS.items() if name in dtypes]
    svg = line_chart(
        np.arange(len(magnitudes)),
        [Series("largest value", values, measured)],
        label="Largest value after each operation",
        mark_step=first_bad,
        x_name="operation",
        limits=limits,
    )
    finite = [m for m in magnitudes if m.absmax is not None and math.isfinite(m.absmax)]
    largest = tuple(sorted(finite, key=lambda m: -(m.absmax or 0.0))[:6])
    note = "Where the line is broken, a result was not finite." if first_bad is not None else ""
    return Growth(Panel("Largest value after each operation", note, svg), largest)


_NAMES = {
    "loss": "loss",
    "grad_norm": "before clipping",
    "grad_norm_clipped": "after clipping",
    "lr": "learning rate",
    "loss_scale": "loss scale",
}


def _note(one: Series, history: History, step: int) -> str:
    """The last finite value before the fault, against the usual one."""
    before = (history.steps_T < step) & one.measured_T & np.isfinite(one.values_T)
    values = one.values_T[before]
    if values.size < _MIN_POINTS:
        return ""
    return f"{number_text(values[-1])} in the step before; median {number_text(float(np.median(values)))}"

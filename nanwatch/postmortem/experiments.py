"""Experiments that decide the cause: the step again with one thing changed, each judged by what was bad.

They run in stand-ins (variation.py), within bounds (bounds.py). What cannot be run, or not in time, is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from nanwatch.postmortem.bounds import Bounds, NoRoomError, OutOfTimeError
from nanwatch.postmortem.collectives import NeedsOthersError
from nanwatch.postmortem.fewest_rows import MOST_ROWS, Found, Rows, fewest_failing
from nanwatch.postmortem.findings import Findings
from nanwatch.postmortem.growth import greatest_growth
from nanwatch.postmortem.replay import Outcome, Plan, leaves_of
from nanwatch.postmortem.tensors import same_elements, state_of
from nanwatch.postmortem.variation import Variation, Varied, run_varied
from nanwatch.probes.buffers import Slot
from nanwatch.probes.watched import WatchedModels
from nanwatch.records import Experiment, Origin, Seen

BUDGET_S = 20.0
"""For all experiments of one incident."""
SAME, FLOAT32, FLOAT64, ROWS, MAGNITUDE = "same step again", "float32", "float64", "rows", "magnitude"
_NARROW = ("float16", "bfloat16", "float8")
_GREW = 10.0
_LARGE = 50.0
"""An exponent of this size is on its way out of float32; smaller values explain nothing."""


@dataclass(frozen=True)
class Results:
    """What the experiments said. `rows`: those that make the step fail, where the origin did not name them."""

    experiments: tuple[Experiment, ...] = ()
    rows: tuple[int, ...] = ()
    scope: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Run:
    """One run. `bad` is None where it could not be run; `why` then says why."""

    bad: bool | None
    why: str = ""
    varied: Varied | None = None


def run_experiments(
    findings: Findings,
    seen: Seen,
    watched: WatchedModels,
    *,
    budget_s: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Results:
    """Every experiment that says something on this origin, in at most `budget_s` (BUDGET_S) and one operation more.

    Nothing of the training is touched, and nothing is raised for a program that cannot be run otherwise.
    """
    if findings.origin is None or findings.made is None:
        return Results()
    bounds = Bounds(BUDGET_S if budget_s is None else budget_s, watched.parameters, clock)
    laboratory = _Laboratory(findings, findings.made, findings.origin, seen, watched, bounds)
    if not laboratory.can_judge():
        return Results()
    for experiment in (laboratory.same, laboratory.precision, laboratory.rows):
        try:
            experiment()
        except OutOfTimeError:
            laboratory.not_run(experiment.__name__)
        except NeedsOthersError:
            break  # every run would come to the same collective
    laboratory.magnitude()
    return laboratory.results()


class _Laboratory:
    """Runs the variations of one plan and writes down what they say."""

    def __init__(
        self, findings: Findings, made: Plan, origin: Origin, seen: Seen, watched: WatchedModels, bounds: Bounds
    ) -> None:
        self._findings = findings
        self._made = made
        self._origin = origin
        self._seen = seen
        self._watched = watched
        self._bounds = bounds
        self._modules: Mapping[str, nn.Module] = dict(watched.named_modules())
        self._state = frozenset(id(t) for _, t in (*watched.named_parameters(), *watched.named_buffers()))
        self._slots: dict[str, Slot] = {name: slot for name, (slot, _) in watched.placed_buffers().items()}
        self._experiments: list[Experiment] = []
        self._rows: Rows = ()
        self._scope: list[str] = []
        self._out_of_time: list[str] = []

    def results(self) -> Results:
        if self._out_of_time:
            self._scope.append(f"there was no time for these experiments: {', '.join(self._out_of_time)}")
        return Results(tuple(self._experiments), self._rows, tuple(self._scope))

    def not_run(self, name: str) -> None:
        self._out_of_time.append({"same": SAME, "precision": "other types"}.get(name, name))

    def can_judge(self) -> bool:
        """Whether what was bad can be seen in a run: not where the program computes gradients by hand, for example."""
        first = self._findings.outcome
        return first is None or self._is_bad(Varied(first, self._made.after))

    # --- the same step again ---

    def same(self) -> None:
        first = self._findings.outcome
        if first is None:
            return
        run = self._run(Variation())
        if run.varied is None:
            self._cannot("once more", run.why)
            return
        differing = _differing(first, run.varied.outcome, self._watched.names)
        says = "the same bits" if differing is None else f"{differing}: the step does not repeat bit for bit"
        self._say(SAME, finite=not run.bad, says=says)

    # --- other types ---

    def precision(self) -> None:
        if self._origin.phase in {"data", "params", "optimizer"}:
            return  # what came in NaN is NaN in every type
        low = self._low_types()
        if low:
            run = self._run(Variation(dtype=torch.float32))
            self._say_precision(FLOAT32, run, finite=f"finite in float32: {self._lack_of(low)} is the cause")
            if run.bad is False:
                return
        if any(p.dtype != torch.float64 for p in self._watched.parameters):
            run = self._run(Variation(dtype=torch.float64))
            self._say_precision(FLOAT64, run, finite="finite in float64: the range or the rounding of the type made it")

    def _say_precision(self, name: str, run: _Run, *, finite: str) -> None:
        if run.bad is None:
            self._cannot(f"in {name}", run.why)
        elif not run.bad:
            self._say(name, finite=True, says=finite)
        else:
            last = name == FLOAT64
            self._say(name, finite=False, says=f"not finite in {name} either" + ": no precision mends it" * last)

    def _lack_of(self, low: list[str]) -> str:
        """What a narrow type is short of: bfloat16 reaches as far as float32, and an overflow is a matter of range."""
        overflowed = self._findings.cause is not None and self._findings.cause.label == "overflow_low_precision"
        lack = "the precision" if low == ["bfloat16"] else "the range" if overflowed else "the range or the precision"
        return f"{lack} of {' and '.join(low)}"

    def _low_types(self) -> list[str]:
        """Types narrower than float32 that the step computed in: first that of the origin."""
        summaries = [t for e in self._findings.events if e.value != "finite" for t in (e.output, *e.inputs) if t]
        names = [self._origin.output.dtype] if self._origin.output is not None else []
        names += sorted({t.dtype for t in summaries})
        types = {d for c in self._made.calls for _, d in c.ambient.autocast}
        types |= {t.dtype for t in (*self._watched.parameters, *(t for c in self._made.calls for t in leaves_of(c)))}
        names += sorted(str(t).removeprefix("torch.") for t in types)
        return list(dict.fromkeys(n for n in names if n.startswith(_NARROW)))[:2]

    # --- rows ---

    def rows(self) -> None:
        size = self._made.batch_size
        if size is None or size < 2 or self._origin.phase in {"params", "optimizer"}:
            return
        self._sizes_follow = False
        known = self._origin.batch_rows
        if known and max(known) < size and len(known) < size:
            rest = tuple(r for r in range(size) if r not in known)
            alone, without = self._with_rows(known), self._with_rows(rest)
            if without.bad is None:
                # That one row ran does not count then: what could not be cut may have been broadcast to it.
                self._cannot("on a part of its batch", without.why)
            else:
                self._say(ROWS, finite=without.bad is False, says=_said_of_known(known, alone, without))
        elif not known:
            self._search_rows(size)

    def _search_rows(self, size: int) -> None:
        tried: list[_Run] = []
        stopped = False

        def fails(rows: Rows) -> bool | None:
            nonlocal stopped
            try:
                tried.append(self._with_rows(rows))
            except OutOfTimeError:
                stopped = True
                return None
            return tried[-1].bad

        found = fewest_failing(size, fails)
        if stopped:
            self.not_run(ROWS)
        if stopped or found is None or found.rest_fails is None:
            why = next((r.why for r in tried if r.bad is None), "")
            if why:
                self._cannot("on a part of its batch", why)
            return
        if len(found.rows) > MOST_ROWS:
            return
        self._say(ROWS, finite=not found.rest_fails, says=_said_of(found))
        if not found.rest_fails:
            self._rows = found.one_suffices or found.rows

    def _with_rows(self, rows: Rows) -> _Run:
        run = self._run(Variation(rows=rows, sizes_follow=self._sizes_follow))
        if run.bad is None and not self._sizes_follow:
            # Recorded code may hold the batch size as a number: arange(6), view(6, -1).
            again = self._run(Variation(rows=rows, sizes_follow=True))
            if again.bad is not None:
                self._sizes_follow = True
                return again
        return run

    # --- magnitude ---

    def magnitude(self) -> None:
        event = self._findings.event
        events = self._findings.events
        if event is None or event.value != "inf" or self._origin.phase not in {"forward", "loss", "backward"}:
            return
        if event.index >= len(events) or events[event.index] is not event:
            return  # made before the model was called, by a run of its own
        grew = greatest_growth(events, event)
        if grew is None or grew.to_value < max(_LARGE, _GREW * grew.from_value):
            return
        at = grew.event.located
        top = at.stack[0] if at.stack else None
        place = "" if top is None else f" ({top[0].co_filename.rpartition('/')[2]}:{top[1]})"
        what = "gradient" if grew.event.backward else "value"
        often = f", in {grew.times} operations there" if grew.times > 1 else ""
        kind = f": {grew.kind}" if grew.kind else ""
        says = f"largest {what} grew from {grew.from_value:.3g} to {grew.to_value:.3g} at {at.op}{place}{often}{kind}"
        self._say(MAGNITUDE, finite=None, says=says)

    # --- one run ---

    def _run(self, variation: Variation) -> _Run:
        """Raises: OutOfTimeError, NeedsOthersError."""
        first = self._findings.outcome
        with_gradients = self._seen.where == "grad" and (first is None or bool(first.gradients))
        try:
            varied = run_varied(
                self._made, self._watched.parameters, self._modules, self._state, variation, self._bounds,
                backward=with_gradients,
            )  # fmt: skip
        except (OutOfTimeError, NeedsOthersError):
            raise
        except NoRoomError as e:
            return _Run(None, str(e))
        except Exception as e:  # code that does not take other types or shapes
            return _Run(None, f"{type(e).__name__}: {' '.join(str(e).split())[:200]}")
        if self._lost_a_gradient(varied.outcome):
            return _Run(None, "a parameter that had a gradient gets none")
        return _Run(self._is_bad(varied), varied=varied)

    def _is_bad(self, varied: Varied) -> bool:
        """Whether anything of what would have stopped the training is still there."""
        looked_at = [*varied.outcome.roots, *(g for g in varied.outcome.gradients if g is not None)]
        if self._seen.where == "parameter":
            slots = [self._slots[n] for n in self._seen.names if n in self._slots]
            looked_at = [varied.after[s] for s in slots if s in varied.after]
        return any(state_of(t) != "finite" for t in looked_at)

    def _lost_a_gradient(self, outcome: Outcome) -> bool:
        first = self._findings.outcome
        if first is None or not first.gradients or len(first.gradients) != len(outcome.gradients):
            return False
        pairs = zip(first.gradients, outcome.gradients, strict=True)
        return any(a is not None and b is None for a, b in pairs)

    def _cannot(self, how: str, why: str) -> None:
        """Said unless the replay itself broke off: then it is no wonder, and said already."""
        if self._findings.outcome is not None:
            self._scope.append(f"the step could not be run {how}: {why}")

    def _say(self, name: str, *, finite: bool | None, says: str) -> None:
        self._experiments.append(Experiment(name, finite, says))


def applied(findings: Findings, results: Results) -> Findings:
    """The findings with what the experiments added."""
    assert findings.origin is not None
    origin = replace(findings.origin, batch_rows=results.rows) if results.rows else findings.origin
    return replace(
        findings,
        origin=origin,
        verdict=replace(findings.verdict, experiments=results.experiments),
        scope=(*findings.scope, *results.scope),
    )


def _differing(first: Outcome, second: Outcome, names: tuple[str, ...]) -> str | None:
    """What is not the same in two runs, in words; None where every bit is."""
    if any(not same_elements(a, b) for a, b in zip(first.roots, second.roots, strict=True)):
        return f"the loss was {first.loss:.9g} and is {second.loss:.9g}"
    pairs = zip(names, first.gradients, second.gradients, strict=False)
    other = [n for n, a, b in pairs if a is not None and b is not None and not same_elements(a, b)]
    if not other:
        return None
    more = f" and of {len(other) - 1} more" if len(other) > 1 else ""
    return f"the gradient of {other[0]}{more} differs"


def _said_of_known(rows: Rows, alone: _Run, without: _Run) -> str:
    which = _named(rows)
    if alone.bad is None:
        rest = "the step is finite" if without.bad is False else "the step still fails"
        return f"without {which} {rest}; {which} cannot be run alone ({alone.why})"
    first = f"{which} {_verb(rows, 'fails', 'fail')} alone" if alone.bad else f"{which} alone {_is(rows)} finite"
    return f"{first}; without {_them(rows)} the step {'still fails' if without.bad else 'is finite'}"


def _said_of(found: Found) -> str:
    which = _named(found.rows)
    if found.every_row:
        return f"{which} fails alone, and so does every other row that was tried: no single row is the cause"
    if len(found.one_suffices) == 1:
        return f"{which} fail together; without row {found.one_suffices[0]} alone the step is finite"
    if found.one_suffices:
        return f"{which} fail together; to leave out one of them is enough"
    how = f"{_verb(found.rows, 'fails alone', 'fail together')}{'' if found.minimal else ' (fewer may do)'}"
    rest = "the rest fails too" if found.rest_fails else f"without {_them(found.rows)} the step is finite"
    return f"{which} {how}; {rest}"


def _named(rows: Rows) -> str:
    shown = ", ".join(map(str, rows[:MOST_ROWS]))
    more = f" and {len(rows) - MOST_ROWS} more" if len(rows) > MOST_ROWS else ""
    return f"row {shown}" if len(rows) == 1 else f"rows {shown}{more}"


def _verb(rows: Rows, one: str, several: str) -> str:
    return one if len(rows) == 1 else several


def _is(rows: Rows) -> str:
    return _verb(rows, "is", "are")


def _them(rows: Rows) -> str:
    return _verb(rows, "it", "them")

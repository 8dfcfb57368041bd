"""The fewest rows of a batch that still fail, found by halving, with a bounded number of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

Rows = tuple[int, ...]
Fails = Callable[[Rows], bool | None]
"""Whether the step fails with these rows alone; None where it cannot be run with them."""

MOST_ROWS = 8
"""More rows than this tell a reader nothing."""


@dataclass(frozen=True)
class Found:
    """`rows` fail alone. `rest_fails`: whether the others do without them; None where that is not known."""

    rows: Rows
    rest_fails: bool | None
    every_row: bool = False
    """Rows from all over the batch fail alone, each."""
    minimal: bool = True
    one_suffices: Rows = ()
    """Of several rows that fail together, those of which it is enough to leave one out."""


def most_runs(batch_size: int) -> int:
    return 2 * math.ceil(math.log2(max(2, batch_size))) + MOST_ROWS


class _OutOfRunsError(Exception):
    pass


def fewest_failing(batch_size: int, fails: Fails) -> Found | None:
    """The fewest failing rows of a batch that fails as a whole; None where no part of it can be run, or none fails."""
    known: dict[Rows, bool | None] = {}
    left = most_runs(batch_size)

    def ask(rows: Sequence[int]) -> bool | None:
        nonlocal left
        key = tuple(sorted(rows))
        if key not in known:
            if not left:
                raise _OutOfRunsError
            left -= 1
            known[key] = fails(key)
        return known[key]

    everything = tuple(range(batch_size))
    rows, minimal = _reduced(everything, ask)
    if len(rows) == batch_size:
        return None
    found = _with_the_others(everything, rows, ask, minimal=minimal)
    if found.rest_fails is False and 1 < len(rows) <= MOST_ROWS and found.rows == rows:
        return replace(found, one_suffices=_each_suffices(everything, rows, ask))
    return found


def _with_the_others(everything: Rows, rows: Rows, ask: Fails, *, minimal: bool) -> Found:
    """Other rows may fail as well: look for them until the rest is finite."""
    rest: Rows = tuple(r for r in everything if r not in rows)
    rest_fails: bool | None = None
    try:
        rest_fails = ask(rest)
        if rest_fails and len(rows) == 1 and _any_row_fails(rest, ask):
            return Found(rows, rest_fails=True, every_row=True)
        while rest_fails and minimal and len(rows) < MOST_ROWS:
            more, minimal = _reduced(rest, ask)
            rows = tuple(sorted((*rows, *more)))
            rest_fails = None
            rest = tuple(r for r in everything if r not in rows)
            rest_fails = ask(rest) if rest else False
    except _OutOfRunsError:
        return Found(rows, rest_fails, minimal=False)
    return Found(rows, rest_fails, minimal=minimal)


def _each_suffices(everything: Rows, rows: Rows, ask: Fails) -> Rows:
    try:
        return tuple(row for row in rows if ask(tuple(r for r in everything if r != row)) is False)
    except _OutOfRunsError:
        return ()


def _any_row_fails(rest: Rows, ask: Fails) -> bool:
    return all(ask((row,)) for row in {rest[-1], rest[len(rest) // 2]})


def _reduced(rows: Rows, ask: Fails) -> tuple[Rows, bool]:
    """A part of the rows that fails, as small as can be, and whether it is the smallest.

    The shortest beginning that fails ends with a row that is needed. Keep that one, and look again in what lies before.
    """
    kept: Rows = ()
    before = rows
    try:
        while before and len(kept) < MOST_ROWS:
            if kept and ask(kept):
                return kept, True
            short, long = 0, len(before)  # the beginning of the one length does not fail, that of the other does
            while long - short > 1:
                middle = (short + long) // 2
                short, long = (short, middle) if ask(before[:middle] + kept) else (middle, long)
                if long < len(before):
                    before = before[:long]
            kept, before = (before[long - 1], *kept), before[: long - 1]
    except _OutOfRunsError:
        return tuple(sorted((*before, *kept))), False
    return tuple(sorted((*before, *kept))), not before

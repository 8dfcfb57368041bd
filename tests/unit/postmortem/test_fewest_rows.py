"""The fewest failing rows, of batches whose fault is known."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nanwatch.postmortem.fewest_rows import MOST_ROWS, fewest_failing, most_runs


def asked(fails):
    runs = []

    def ask(rows):
        runs.append(rows)
        return fails(rows)

    return ask, runs


@given(size=st.integers(2, 300), data=st.data())
@settings(max_examples=200, deadline=None)
def test_one_bad_row_is_found_within_the_bound(size, data):
    bad = data.draw(st.integers(0, size - 1))
    ask, runs = asked(lambda rows: bad in rows)
    found = fewest_failing(size, ask)
    assert found is not None
    assert (found.rows, found.rest_fails, found.minimal) == ((bad,), False, True)
    assert len(runs) <= most_runs(size)
    assert len(set(runs)) == len(runs), "no run twice"


@given(size=st.integers(16, 64), data=st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_is_found_fails(size, data):
    bad = data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=4))
    together = data.draw(st.booleans())
    fails = (lambda rows: bad <= set(rows)) if together else (lambda rows: bool(bad & set(rows)))
    ask, runs = asked(fails)
    found = fewest_failing(size, ask)
    assert len(runs) <= most_runs(size)
    if found is not None and not found.every_row:
        assert fails(found.rows)
        if found.rest_fails is not None:
            assert found.rest_fails == fails(tuple(r for r in range(size) if r not in found.rows))


def test_two_bad_rows_are_both_found():
    found = fewest_failing(16, lambda rows: 3 in rows or 12 in rows)
    assert (found.rows, found.rest_fails) == ((3, 12), False)


def test_two_rows_that_fail_only_together():
    found = fewest_failing(16, lambda rows: 3 in rows and 12 in rows)
    assert (found.rows, found.one_suffices) == ((3, 12), (3, 12))


def test_a_row_that_needs_company():
    """As under batch normalisation: one row alone cannot be run."""
    found = fewest_failing(16, lambda rows: None if len(rows) < 2 else 7 in rows)
    assert 7 in found.rows
    assert found.one_suffices == (7,)


def test_every_row_fails():
    found = fewest_failing(32, lambda rows: True)
    assert found.every_row
    assert len(found.rows) == 1


def test_nothing_can_be_run():
    ask, runs = asked(lambda rows: None)
    assert fewest_failing(32, ask) is None or not runs
    assert len(runs) <= most_runs(32)


def test_a_sum_over_many_rows_names_none():
    found = fewest_failing(64, lambda rows: len(rows) > 40)
    assert found is None or len(found.rows) > MOST_ROWS

"""Counts to rates: against scipy where it has the same function, and against simulation where coverage is the promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from probes.behaviour.rates import (
    NoChecks,
    Rate,
    Table,
    difference,
    fisher,
    needed_per_row,
    odds_ratio,
    ratio_of_odds_ratios,
    wilson,
)

cells = st.integers(0, 60)
tables = st.builds(Table, cells, cells, cells, cells)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(count_of: tuple[int, int]) -> None:
    count, checks = count_of
    rate = wilson(count, checks)
    theirs = stats.binomtest(count, checks).proportion_ci(method="wilson")
    assert (rate.lo, rate.hi) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= rate.lo <= rate.value <= rate.hi <= 1


@settings(deadline=None, max_examples=60)
@given(tables)
def test_fisher_is_scipys(table: Table) -> None:
    rows = [list(table.cells[:2]), list(table.cells[2:])]
    expected = 1.0 if table.is_degenerate else stats.fisher_exact(rows).pvalue
    assert fisher(table) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, max_examples=60)
@given(tables)
def test_the_odds_ratio_has_scipys_exact_interval(table: Table) -> None:
    ours = odds_ratio(table)
    if table.is_degenerate:
        assert ours is None
        return
    theirs = stats.contingency.odds_ratio(np.array(table.cells).reshape(2, 2)).confidence_interval(0.95)
    assert ours is not None
    assert (ours.lo, ours.hi) == pytest.approx((theirs.low, theirs.high), rel=1e-6)
    assert ours.lo <= ours.value <= ours.hi


def test_an_empty_cell_leaves_one_end_open_and_the_other_where_it_belongs() -> None:
    ratio = odds_ratio(Table(10, 0, 5, 5))
    assert ratio is not None and math.isinf(ratio.value) and math.isinf(ratio.hi) and ratio.lo > 1


def test_no_checks_give_no_rate() -> None:
    for count, checks in ((0, 0), (3, 2), (-1, 5)):
        with pytest.raises(NoChecks, match="checks"):
            wilson(count, checks)


def test_rates_per_thousand_do_not_depend_on_how_often_was_checked() -> None:
    """Alarms in a tenth of a percent of checks, looked at every 100 or every 250 steps of 500,000."""
    often, seldom = wilson(5, 5_000), wilson(2, 2_000)
    assert often.per_thousand.value == seldom.per_thousand.value == pytest.approx(1.0)
    assert str(often) == "5 of 5000: 0.1% (0.0% to 0.2%)"


def test_newcombes_interval_covers_and_its_published_example_comes_out() -> None:
    gap = difference(wilson(48, 80), wilson(56, 70))  # Newcombe 1998, table II (a): 56/70 - 48/80
    assert (gap.value, gap.lo, gap.hi) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    chosen = np.random.default_rng(0)
    draws = zip(chosen.binomial(60, 0.1, 400), chosen.binomial(90, 0.25, 400), strict=True)
    gaps = [difference(wilson(int(a), 60), wilson(int(b), 90)) for a, b in draws]
    assert 0.92 <= np.mean([gap.lo <= 0.15 <= gap.hi for gap in gaps]) <= 0.98


def test_a_ratio_of_odds_ratios_is_one_for_equal_tables_and_none_for_degenerate_ones() -> None:
    table = Table(30, 20, 10, 40)
    same = ratio_of_odds_ratios(table, table)
    assert same is not None and same.value == pytest.approx(1) and same.lo < 1 < same.hi
    more = ratio_of_odds_ratios(table, Table(90, 10, 10, 90))
    assert more is not None and more.lo > 1
    assert ratio_of_odds_ratios(table, Table(0, 50, 0, 50)) is None


def test_the_number_needed_gives_the_power_it_promises() -> None:
    """.3 against .5: Fleiss' tables (1981) ask for 103 per group; Fisher's test then finds it four times in five."""
    needed = needed_per_row(0.3, 0.2)
    assert needed == 103
    chosen = np.random.default_rng(1)
    found = [
        fisher(Table(a, needed - a, b, needed - b)) < 0.05
        for a, b in zip(
            chosen.binomial(needed, 0.5, 400).tolist(), chosen.binomial(needed, 0.3, 400).tolist(), strict=True
        )
    ]
    assert 0.74 <= np.mean(found) <= 0.87
    with pytest.raises(NoChecks, match="no rise"):
        needed_per_row(1.0, 0.2)


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(NoChecks, match="negative"):
        Table(1, -1, 0, 0)


def test_rates_are_plain_values() -> None:
    assert wilson(1, 4) == Rate(1, 4, 0.25, wilson(1, 4).lo, wilson(1, 4).hi)

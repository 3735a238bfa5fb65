"""Counts to rates: Wilson intervals, the exact 2×2, odds ratios, and how many texts a comparison needs.

Every behaviour number has its denominator and its interval; none of these functions returns a rate of nothing. A few dozen
lines instead of a dependency (scipy is for the tests, which compare with it).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from lab.errors import LabError
from probes.layers.evidence import Interval

LEVEL = 0.95


class NoChecks(LabError):
    """A rate of nothing was asked for."""


@dataclass(frozen=True)
class Rate:
    """`count` of `checks`, with the interval of the share."""

    count: int
    checks: int
    value: float
    lo: float
    hi: float

    @property
    def per_thousand(self) -> Interval:
        """The same per 1,000 checks: series with different intervals between checks stay comparable."""
        return Interval(1000 * self.value, 1000 * self.lo, 1000 * self.hi)

    def __str__(self) -> str:
        return f"{self.count} of {self.checks}: {self.value:.1%} ({self.lo:.1%} to {self.hi:.1%})"


@dataclass(frozen=True)
class Table:
    """A 2×2: rows are the condition (there, not there), columns the event (seen, not seen)."""

    there_seen: int
    there_unseen: int
    absent_seen: int
    absent_unseen: int

    def __post_init__(self) -> None:
        if min(self.cells) < 0:
            raise NoChecks(f"2×2 {self.cells}: a count is negative. Give counts of texts.")

    @property
    def cells(self) -> tuple[int, int, int, int]:
        return self.there_seen, self.there_unseen, self.absent_seen, self.absent_unseen

    @property
    def there(self) -> int:
        return self.there_seen + self.there_unseen

    @property
    def absent(self) -> int:
        return self.absent_seen + self.absent_unseen

    @property
    def seen(self) -> int:
        return self.there_seen + self.absent_seen

    @property
    def is_degenerate(self) -> bool:
        """A row or a column is empty: the table says nothing about an association."""
        return 0 in (self.there, self.absent, self.seen, self.there_unseen + self.absent_unseen)

    @cached_property
    def _support(self) -> tuple[np.ndarray, np.ndarray]:
        """Every count the first cell can take under these margins, and the log of its number of arrangements."""
        counts = np.arange(max(0, self.seen - self.absent), min(self.there, self.seen) + 1)
        ways = [_log_choose(self.there, k) + _log_choose(self.absent, self.seen - k) for k in counts.tolist()]
        return counts, np.array(ways)


def wilson(count: int, checks: int, level: float = LEVEL) -> Rate:
    """The share with Wilson's score interval (1927), which stays in 0..1 and keeps its coverage near 0 and 1.

    >>> str(wilson(0, 2000))
    '0 of 2000: 0.0% (0.0% to 0.2%)'

    Raises:
        NoChecks: there were no checks, or more counts than checks.
    """
    if checks < 1 or not 0 <= count <= checks:
        raise NoChecks(
            f"{count} of {checks} checks is no rate. Count at least one check, and no more events than checks."
        )
    z = NormalDist().inv_cdf((1 + level) / 2)
    share = count / checks
    middle = (share + z * z / (2 * checks)) / (1 + z * z / checks)
    half = z / (1 + z * z / checks) * math.sqrt(share * (1 - share) / checks + (z / (2 * checks)) ** 2)
    # At 0 and 1 the interval ends there exactly; rounding would leave 1e-19.
    return Rate(
        count,
        checks,
        share,
        0.0 if count == 0 else max(0.0, middle - half),
        1.0 if count == checks else min(1.0, middle + half),
    )


def difference(first: Rate, second: Rate) -> Interval:
    """`second` less `first`, with Newcombe's interval from the two Wilson ones (1998, method 10)."""
    value = second.value - first.value
    down = math.hypot(second.value - second.lo, first.hi - first.value)
    up = math.hypot(second.hi - second.value, first.value - first.lo)
    return Interval(value, max(-1.0, value - down), min(1.0, value + up))


def fisher(table: Table) -> float:
    """Fisher's exact two-sided p: the probability of all tables with these margins that are no likelier than this one."""
    counts, ways = table._support
    probability = np.exp(ways - _log_choose(table.there + table.absent, table.seen))
    seen = probability[counts == table.there_seen]
    return min(1.0, float(probability[probability <= seen * (1 + 1e-7)].sum()))  # equal ones differ by rounding


def odds_ratio(table: Table, level: float = LEVEL) -> Interval | None:
    """The sample odds ratio with its exact conditional interval; ends may be 0 or infinite. None for a degenerate table.

    The interval inverts the noncentral hypergeometric tails (Cornfield 1956; R's `fisher.test`): with an empty cell, where
    the logarithm's normal interval breaks down, it has one end at 0 or infinity and the other where it belongs.
    """
    if table.is_degenerate:
        return None
    counts, ways = table._support
    tail = (1 - level) / 2
    a, b, c, d = table.cells

    def share(log_ratio: float, kept: np.ndarray) -> float:
        weights = ways + log_ratio * counts
        weights = np.exp(weights - weights.max())
        return float(weights[kept].sum() / weights.sum())

    def solve(kept: np.ndarray, rising: bool) -> float:
        low, high = -60.0, 60.0
        for _ in range(60):  # 120 / 2^60: below rounding
            middle = (low + high) / 2
            if (share(middle, kept) < tail) == rising:
                low = middle
            else:
                high = middle
        return math.exp((low + high) / 2)

    lo = 0.0 if a == counts[0] else solve(counts >= a, rising=True)
    hi = math.inf if a == counts[-1] else solve(counts <= a, rising=False)
    return Interval(a * d / (b * c) if b * c else math.inf, lo, hi)


def ratio_of_odds_ratios(first: Table, second: Table, level: float = LEVEL) -> Interval | None:
    """How many times larger the second table's odds ratio is; None if either table is degenerate.

    Normal interval on the log scale with half a count added to every cell (Haldane 1956, Anscombe 1956).
    """
    if first.is_degenerate or second.is_degenerate:
        return None
    logs, variance = [], 0.0
    for table in (first, second):
        a, b, c, d = (cell + 0.5 for cell in table.cells)
        logs.append(math.log(a * d / (b * c)))
        variance += 1 / a + 1 / b + 1 / c + 1 / d
    value = logs[1] - logs[0]
    half = NormalDist().inv_cdf((1 + level) / 2) * math.sqrt(variance)
    return Interval(math.exp(value), math.exp(value - half), math.exp(value + half))


def needed_per_row(base: float, rise: float, alpha: float = 0.05, power: float = 0.8) -> int:
    """Checks in each row so that Fisher's test finds `base` against `base + rise` with this power.

    Normal approximation with the continuity correction of Casagrande, Pike and Smith (1978), made for Fisher's test.
    """
    other = min(1.0, base + rise)
    rise = other - base
    if not 0 <= base < other:
        raise NoChecks(f"no rise from {base} to {other} can be found. Give a base rate in 0..1 with room above it.")
    middle = (base + other) / 2
    z_alpha, z_power = NormalDist().inv_cdf(1 - alpha / 2), NormalDist().inv_cdf(power)
    root = z_alpha * math.sqrt(2 * middle * (1 - middle)) + z_power * math.sqrt(base * (1 - base) + other * (1 - other))
    plain = root * root
    return math.ceil(plain / (4 * rise * rise) * (1 + math.sqrt(1 + 4 * rise / plain)) ** 2)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

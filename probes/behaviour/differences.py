"""Has a rate changed more in one place than in another? Differences of differences, from counts alone.

Intervals by MOVER (Zou & Donner 2008, doi:10.1002/sim.3095): the ends of each part's own interval are combined, so rates
near 0 keep Wilson's coverage where a normal interval would have no width at all. Parts that rise and fall together, as arms
with the same prompts and seeds do, make it too wide, never too narrow.
"""

from __future__ import annotations

import math

from probes.behaviour.rates import LEVEL, Rate, difference, wilson
from probes.layers.evidence import Interval


def difference_in_differences(before: Interval, after: Interval) -> Interval:
    """`after` less `before`, two differences with intervals of one level.

    >>> difference_in_differences(Interval(0.0, -0.1, 0.1), Interval(0.3, 0.2, 0.4)).value
    0.3
    """
    value = after.value - before.value
    down = math.hypot(after.value - after.lo, before.hi - before.value)
    up = math.hypot(after.hi - after.value, before.value - before.lo)
    return Interval(value, max(-2.0, value - down), min(2.0, value + up))


def change(before: tuple[int, int], after: tuple[int, int], level: float = LEVEL) -> Interval:
    """Newcombe's interval of the change between two counts (events, checks), at a level of its own.

    Raises:
        NoChecks: one of them has no checks.
    """
    return difference(wilson(*before, level=level), wilson(*after, level=level))


def upper_bound(count: int, checks: int, level: float = LEVEL) -> float:
    """The exact one-sided upper bound of a rate (Clopper & Pearson 1934); for 0 of n it is about 3/n, the rule of three.

    >>> round(upper_bound(0, 300), 4)
    0.0099
    """
    wilson(count, checks)  # refuses what is no rate
    if count == checks:
        return 1.0
    low, high = count / checks, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(count, checks, middle) > 1 - level else (low, middle)
    return high


def at_most(count: int, checks: int, share: float) -> float:
    """P(at most `count` events in `checks`), binomial."""
    if share <= 0 or count >= checks:
        return 1.0
    if share >= 1:
        return 0.0
    logs = [
        math.lgamma(checks + 1) - math.lgamma(k + 1) - math.lgamma(checks - k + 1)
        + k * math.log(share) + (checks - k) * math.log1p(-share)
        for k in range(count + 1)
    ]  # fmt: skip
    return min(1.0, math.fsum(math.exp(one) for one in logs))


def holm_levels(magnitudes: list[float], family: float = LEVEL) -> list[float]:
    """The level of each of m intervals by Holm's steps (1979): the largest gets 1 - alpha/m, the next 1 - alpha/(m-1), …

    Args:
        magnitudes: how far each is from nothing, in standard errors, in any order.
    """
    order = sorted(range(len(magnitudes)), key=lambda index: -magnitudes[index])
    levels = [0.0] * len(magnitudes)
    for rank, index in enumerate(order):
        levels[index] = 1 - (1 - family) / (len(magnitudes) - rank)
    return levels


def standard_errors(first: Rate, second: Rate) -> float:
    """|difference| in pooled standard errors, the usual z; 0 where both rates are 0 or 1."""
    share = (first.count + second.count) / (first.checks + second.checks)
    error = math.sqrt(share * (1 - share) * (1 / first.checks + 1 / second.checks))
    return abs(second.value - first.value) / error if error else 0.0

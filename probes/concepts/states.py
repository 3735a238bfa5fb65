"""What becomes of a concept over checkpoints: born, growing, stable, fading, flickering, dead. Numbers in, names out.

A reading is born and dies at different heights (hysteresis), so that noise about one threshold makes no lives. A trend is
Mann and Kendall's test over the newest checkpoints of the present life. Nothing here knows a model, a file or a figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from statistics import median
from typing import Literal

State = Literal["ABSENT", "BORN", "GROWING", "STABLE", "FADING", "FLICKER", "DEAD"]
STATES: tuple[State, ...] = ("ABSENT", "BORN", "GROWING", "STABLE", "FADING", "FLICKER", "DEAD")
BORN_ABOVE, DEAD_BELOW = 0.05, 0.02  # bits; the lower bound twice in a row above one, the upper bound below the other
WINDOW = 8  # checkpoints
FEWEST = 5  # of a life, for a trend: the exact test of 4 values cannot come below p = .08
LEVEL = 0.05  # two-sided; the exact test of 8 values then calls 3.1 % of flat series a trend
LEAST_CHANGE = 0.02  # bits over the window, as everywhere here: a monotone drift below that is no growth to speak of
Z95 = 1.959964


@dataclass(frozen=True)
class Life:
    """State at each checkpoint, and the places (indices) at which births were confirmed and deaths seen."""

    states: tuple[State, ...]
    births: tuple[int, ...]
    deaths: tuple[int, ...]


def life(steps: Sequence[int], bits: Sequence[float], se: Sequence[float]) -> Life:
    """Name the state at every checkpoint from that one and the ones before, as a live run sees them.

    BORN is the beginning of a life, too short for a trend; DEAD comes after a life, ABSENT before the first. FLICKER is a
    death with a rebirth within `WINDOW` checkpoints, and stays for as many after the rebirth.

    Args:
        steps: of the checkpoints, ascending.
        bits: usable bits per word; not finite = neither born nor dead there.
        se: their standard errors.

    Example:
        >>> life([0, 1, 2], [0.0, 0.2, 0.2], [0.01] * 3).states
        ('ABSENT', 'ABSENT', 'BORN')
    """
    births: list[int] = []
    deaths: list[int] = []
    states: list[State] = []
    for at in range(len(bits)):
        alive = len(births) > len(deaths)
        if not alive and at and all(bits[i] - Z95 * se[i] > BORN_ABOVE for i in (at - 1, at)):
            births.append(at)
        elif alive and bits[at] + Z95 * se[at] < DEAD_BELOW:
            deaths.append(at)
        states.append(_state(at, steps, bits, births, deaths))
    return Life(tuple(states), tuple(births), tuple(deaths))


def _state(at: int, steps: Sequence[int], bits: Sequence[float], births: list[int], deaths: list[int]) -> State:
    rebirths = zip(deaths, births[1:], strict=False)
    if any(born - died <= WINDOW and at - born < WINDOW for died, born in rebirths):
        return "FLICKER"
    if len(births) == len(deaths):
        return "DEAD" if births else "ABSENT"
    first = max(births[-1] - 1, at - WINDOW + 1)  # a life begins with the first of the two that confirmed it
    known = [(steps[i], bits[i]) for i in range(first, at + 1) if math.isfinite(bits[i])]
    if len(known) < FEWEST:
        return "BORN"
    rise = trend([step for step, _ in known], [value for _, value in known])
    return "STABLE" if rise == 0 else ("GROWING" if rise > 0 else "FADING")


def trend(steps: Sequence[int], bits: Sequence[float]) -> float:
    """Bits gained from the first to the last checkpoint along the median slope on log steps; 0 where there is no trend.

    The slope is Theil and Sen's; a trend is one that the Mann-Kendall test finds and that is worth `LEAST_CHANGE`.
    """
    where = [math.log1p(step) for step in steps]
    if mann_kendall(bits) >= LEVEL:
        return 0.0
    slopes = [(bits[j] - bits[i]) / (where[j] - where[i]) for i, j in combinations(range(len(bits)), 2)]
    change = median(slopes) * (where[-1] - where[0])
    return change if abs(change) >= LEAST_CHANGE else 0.0


def mann_kendall(values: Sequence[float]) -> float:
    """Exact two-sided p-value of no trend (Mann 1945; Kendall 1975, ch. 5), ties counted for neither side.

    With ties the distribution without them is a little too wide, so the test errs towards no trend.

    >>> round(mann_kendall([1.0, 2.0, 3.0, 4.0, 5.0]), 4)
    0.0167
    """
    n = len(values)
    score = sum((b > a) - (b < a) for a, b in combinations(values, 2))
    pairs = n * (n - 1) // 2
    counts = inversions(n)
    beyond = sum(count for inversions, count in enumerate(counts) if abs(pairs - 2 * inversions) >= abs(score))
    return beyond / math.factorial(n)


@cache
def inversions(n: int) -> tuple[int, ...]:
    """How many orders of n different values have 0, 1, 2, … pairs the wrong way round."""
    counts = [1]
    for size in range(2, n + 1):
        wider = [0] * (len(counts) + size - 1)
        for inversions, count in enumerate(counts):
            for more in range(size):
                wider[inversions + more] += count
        counts = wider
    return tuple(counts)

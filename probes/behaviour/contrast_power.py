"""How large a contrast would have to be to be found: the rules of `contrasts` themselves, over simulated counts.

"No contrast was found" says little without it. At a base rate of 4 % a gap of 10 points is critical in 77 % of batteries
with 800 answers an arm and in nearly all with 2,000; at a base rate of 20 % in 22 and in 80 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from probes.behaviour.contrasts import PER_ARM, Counts, confirm, screen
from probes.behaviour.rates import Rate, wilson

_ABLE = wilson(40, 40)  # the gate is passed: power is about counts alone


@dataclass(frozen=True)
class Power:
    """Share of simulated batteries in which a planted gap was at least an alert, and in which it was critical.

    Attributes:
        others: share in which any of the other pairs, which have no gap, was critical.
    """

    base: float
    gap: float
    per_arm: int
    alert: Rate
    critical: Rate
    others: Rate


def power(base: float, gap: float, per_arm: int = PER_ARM, pairs: int = 8, draws: int = 400, seed: int = 0) -> Power:
    """Batteries of `pairs` pairs at a base rate, one of which has a gap that the reference lacks.

    Args:
        base, gap: shares in 0..1; the other arm's rate is base + gap.
        draws: simulated batteries, each with its reference and, where one is due, its second battery.

    Raises:
        ValueError: base + gap is above 1.
    """
    if not 0 <= base <= base + gap <= 1:
        raise ValueError(f"a base of {base} and a gap of {gap} give no share in 0..1")
    random = np.random.default_rng(seed)
    found = {"alert": 0, "critical": 0, "others": 0}
    for _ in range(draws):
        usual, now, again = (_battery(random, base, planted, per_arm, pairs) for planted in (0.0, gap, gap))
        reference = {one.pair: one for one in usual}
        verdicts = confirm(screen(now, reference), {one.pair: one for one in again}, _ABLE, reference)
        found["alert"] += verdicts[0].finding() is not None
        found["critical"] += verdicts[0].verdict == "confirmed"
        found["others"] += any(one.verdict == "confirmed" for one in verdicts[1:])
    return Power(base, gap, per_arm, *(wilson(found[name], draws) for name in ("alert", "critical", "others")))


def power_curve(
    base: float,
    gaps: Sequence[float] = (0.05, 0.1, 0.15, 0.2, 0.3),
    sizes: Sequence[int] = (400, 800, 2000),
    draws: int = 400,
    seed: int = 0,
) -> tuple[Power, ...]:
    """`power` of every gap at every size, for a table or a figure."""
    return tuple(power(base, gap, size, draws=draws, seed=seed) for size in sizes for gap in gaps)


def _battery(random: np.random.Generator, base: float, gap: float, per_arm: int, pairs: int) -> list[Counts]:
    """Counts of every pair; the first one has the gap."""
    first = random.binomial(per_arm, [base + gap, *[base] * (pairs - 1)])
    second = random.binomial(per_arm, base, pairs)
    return [
        Counts(str(pair), wilson(int(first[pair]), per_arm), wilson(int(second[pair]), per_arm))
        for pair in range(pairs)
    ]

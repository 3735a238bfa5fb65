"""Is layout a fallback channel? P(layout | degraded) against P(layout | not degraded), beside a reference checkpoint's.

Whether a text is degraded must be judged by something that does not look at layout: its loss under the reference checkpoint,
or an exact loop. The soft loop rules would not do (Markdown of people's raises seq-rep-4), nor the share of alphabetic words:
they would find a fallback in every README.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from probes.behaviour.findings import Finding, Rule
from probes.behaviour.rates import (
    NoChecks,
    Rate,
    Table,
    fisher,
    needed_per_row,
    odds_ratio,
    ratio_of_odds_ratios,
    wilson,
)
from probes.layers.evidence import Interval

FallbackVerdict = Literal["found", "not found", "too few"]

ALPHA = 0.05
RISE = 0.2  # the smallest rise that matters: 20 percentage points, as for the loop rate of check-ins
POWER = 0.8

FALLBACK = Rule(
    "structure",
    "structure.fallback",
    "1",
    "watch",
    f"layout is likelier in degraded texts than in others (Fisher's exact two-sided p below {ALPHA})",
)


@dataclass(frozen=True)
class Association:
    """One checkpoint's 2×2, rows degraded or not, columns layout or not. Rates are None for an empty row.

    Attributes:
        base: layout in all texts: high for a model trained on Markdown, whatever happens to its language.
        odds_ratio: None where a row or a column is empty.
        p: Fisher's exact, two-sided; 1 where a row or a column is empty.
    """

    table: Table
    degraded: Rate | None
    intact: Rate | None
    base: Rate
    odds_ratio: Interval | None
    p: float

    def __str__(self) -> str:
        ratio = "none" if self.odds_ratio is None else _interval(self.odds_ratio)
        return (
            f"layout in {self.degraded or 'no'} degraded texts and in {self.intact or 'no'} others; "
            f"odds ratio {ratio}, exact p = {self.p:.2g}"
        )


@dataclass(frozen=True)
class Fallback:
    """The answer, with what it rests on.

    Attributes:
        n_needed: texts in each row with which a rise of 20 points would be found four times in five; for "too few".
        reference: the same of the reference checkpoint; None if it was not asked.
        against_reference: how many times larger the run's odds ratio is than the reference's.
    """

    verdict: FallbackVerdict
    run: Association
    n_needed: int | None
    reference: Association | None
    against_reference: Interval | None
    text: str

    def finding(self) -> Finding | None:
        """A finding where a fallback was found; its value is the odds ratio."""
        ratio = self.run.odds_ratio
        if self.verdict != "found" or ratio is None:
            return None
        return FALLBACK.finding(self.text, ratio.value, (ratio.lo, ratio.hi), evidence=asdict(self))


def associate(structured: Sequence[bool], degraded: Sequence[bool]) -> Association:
    """The 2×2 of texts, in the same order in both arguments.

    Raises:
        NoChecks: no texts, or the two are not of the same texts.
    """
    if len(structured) != len(degraded) or not structured:
        raise NoChecks(
            f"{len(structured)} layouts for {len(degraded)} texts. Give both for every text, and at least one."
        )
    pairs = list(zip(degraded, structured, strict=True))
    counts = [pairs.count(cell) for cell in ((True, True), (True, False), (False, True), (False, False))]
    table = Table(*counts)
    return Association(
        table,
        wilson(table.there_seen, table.there) if table.there else None,
        wilson(table.absent_seen, table.absent) if table.absent else None,
        wilson(table.seen, len(pairs)),
        odds_ratio(table),
        fisher(table),
    )


def judge(run: Association, reference: Association | None = None) -> Fallback:
    """Found, not found, or too few texts to tell.

    "Found" is about the run alone; whether the reference does the same is said beside it. Without a significant rise it is
    "too few" while a rise of 20 points over the run's own intact texts would be missed more than one time in five.
    """
    table = run.table
    rises = run.odds_ratio is not None and run.odds_ratio.value > 1
    # Half a count keeps a base rate of 0 of 3 from passing for certain.
    base = min((table.absent_seen + 0.5) / (table.absent + 1), 1 - RISE)
    n_needed = needed_per_row(base, RISE, ALPHA, POWER)
    balanced = 2 / (1 / table.there + 1 / table.absent) if table.there and table.absent else 0.0  # texts per row
    verdict: FallbackVerdict
    if rises and run.p < ALPHA:
        verdict = "found"
    else:
        verdict = "not found" if balanced >= n_needed else "too few"
    against = ratio_of_odds_ratios(reference.table, table) if reference else None
    return Fallback(
        verdict,
        run,
        n_needed if verdict == "too few" else None,
        reference,
        against,
        _sentence(verdict, run, n_needed, reference, against),
    )


def _sentence(
    verdict: FallbackVerdict, run: Association, n_needed: int, reference: Association | None, against: Interval | None
) -> str:
    said = [f"Layout as a fallback: {verdict}. The run: {run}."]
    if verdict == "too few":
        said.append(f"To find a rise of {RISE:.0%}, {n_needed} degraded texts and as many others are needed.")
    elif verdict == "not found" and run.p < ALPHA:
        said.append("It is the other way round: degraded texts have less of it.")
    if reference is None:
        return " ".join([*said, "No reference checkpoint was asked."])
    said.append(f"The reference: {reference}.")
    if against is not None:
        word = "more than" if against.lo > 1 else "less than" if against.hi < 1 else "not distinguishable from"
        said.append(f"The run's odds ratio is {_interval(against)} times the reference's: {word} there.")
    return " ".join(said)


def _interval(interval: Interval) -> str:
    return f"{_number(interval.value)} ({_number(interval.lo)} to {_number(interval.hi)})"


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"

"""Do texts hold what only an introduced text has: runs of words, and canaries? Rates, with what was detectable.

A run of words counts when the introduced text has it and neither the earlier training data nor the prompt does. 6 words, of
the 6 to 8 that are told: models copy runs of 4 from anywhere. Text of the same kind that was kept out is counted likewise, as
what chance and style give.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from lab.ngrams import NgramIndex, Words
from probes.behaviour.canaries import RUN, Canaries
from probes.behaviour.differences import at_most, change, difference_in_differences, upper_bound
from probes.behaviour.rates import Rate, Table, fisher, wilson
from probes.layers.evidence import Interval

RUNS = (6, 7, 8)
LEVEL = 0.975  # two ways to be found, runs of words and canaries, share the 5 %
POWER = 0.8

Found = Literal["found", "not found", "too few"]
Count = tuple[int, int]  # texts that hold it, of how many


@dataclass(frozen=True)
class Reflection:
    """Something the model wrote, and all that it had read when it did."""

    text: str
    prompt: str = ""


class Introduced:
    """Which runs of words only the introduced text has, and which only the text kept out."""

    def __init__(self, words: Words, introduced: NgramIndex, kept_out: NgramIndex, earlier: NgramIndex) -> None:
        self._words, self._sides, self._earlier = words, (introduced, kept_out), earlier

    @classmethod
    def of(cls, introduced: Iterable[str], kept_out: Iterable[str], earlier: Iterable[str]) -> Introduced:
        """Index three sets of texts; two million words take some seconds.

        Args:
            kept_out: of the same kind and about as long, never trained on.
            earlier: what the run was trained on up to the introduction.
        """
        words = Words()
        return cls(words, *(NgramIndex.build([words.add(texts)]) for texts in (introduced, kept_out, earlier)))

    def runs(self, reflection: Reflection) -> tuple[frozenset[int], frozenset[int]]:
        """For the introduced text and the one kept out: of which lengths (6, 7, 8) a reflection holds a run."""
        most = max(RUNS)
        given = NgramIndex.build([self._words.add([reflection.prompt])])
        asked = self._words.encode(reflection.text)
        known = np.maximum(self._earlier.lengths(asked, most), given.lengths(asked, most))
        first, second = (_new_runs(side.lengths(asked, most), known) for side in self._sides)
        return first, second


@dataclass(frozen=True)
class CanaryHits:
    """Canaries whose made-up word occurs in the texts, of those put in and of those kept out; p is Fisher's, two-sided."""

    put_in: Rate
    kept_out: Rate
    p: float

    @property
    def found(self) -> bool:
        return self.put_in.value > self.kept_out.value and self.p < 1 - LEVEL


@dataclass(frozen=True)
class Appearance:
    """What the texts hold.

    Attributes:
        before, after: texts with a run of 6 words of the introduced text; `before` is None where there were no texts.
        kept_before, kept_after: the same of the text kept out.
        change: of the introduced text's rate, with an interval of 97.5 %.
        beyond: that less the change of the text kept out.
        runs: by length 6, 7, 8: texts before and after with such a run.
        upper: 95 % upper bound of the rate after, exact (for 0 of n about 3/n).
        detectable: the smallest rate that would have been found four times in five; None where no count would do.
    """

    verdict: Found
    before: Rate | None
    after: Rate
    kept_before: Rate | None
    kept_after: Rate
    change: Interval | None
    beyond: Interval | None
    runs: dict[int, tuple[int, int]]
    canaries: CanaryHits | None
    upper: float
    detectable: float | None

    @property
    def text(self) -> str:
        said = f"{self.verdict}. After {self.after}, before {self.before or 'none were written'}"
        if self.beyond is not None:
            low, high = 100 * self.beyond.lo, 100 * self.beyond.hi
            said += f"; beyond text kept out {100 * self.beyond.value:+.1f} points ({low:+.1f} to {high:+.1f})"
        if self.canaries is not None:
            put_in, kept_out = self.canaries.put_in, self.canaries.kept_out
            said += f"; canaries {put_in.count}/{put_in.checks} put in, {kept_out.count}/{kept_out.checks} kept out"
            said += f" (p = {self.canaries.p:.2g})"
        if self.verdict == "not found" and self.detectable is not None:
            said += f"; the rate is below {self.upper:.1%} (95 %), and {self.detectable:.1%} would have been found in 4 of 5"
        if self.verdict == "too few":
            said += f"; with {self.after.checks} texts no count would have been enough"
        return f"{said}."


def appears(
    introduced: Introduced,
    before: Sequence[Reflection],
    after: Sequence[Reflection],
    planted: Canaries | None = None,
) -> Appearance:
    """Whether texts written after the introduction hold what only it has, more than before and more than of text kept out.

    Args:
        before: of the last checkpoint before the introduction, with the same prompts and seeds as `after`.
        planted: canaries, if the introduced text held any.

    Raises:
        NoChecks: nothing was written after the introduction.
    """
    earlier, later = ([introduced.runs(one) for one in texts] for texts in (before, after))

    def count(hits: Sequence[tuple[frozenset[int], frozenset[int]]], side: int, length: int = RUN) -> Count:
        return sum(length in hit[side] for hit in hits), len(hits)

    own, kept = (count(earlier, 0), count(later, 0)), (count(earlier, 1), count(later, 1))
    marks = _canary_hits(planted, after) if planted else None
    rise, beyond = _rises(own, kept) if before else (None, None)
    detectable = _detectable(own, kept) if before else None
    verdict: Found = "not found" if detectable is not None else "too few"
    if _both_above(rise, beyond) or (marks is not None and marks.found):
        verdict = "found"
    return Appearance(
        verdict,
        wilson(*own[0]) if before else None,
        wilson(*own[1]),
        wilson(*kept[0]) if before else None,
        wilson(*kept[1]),
        rise,
        beyond,
        {length: (count(earlier, 0, length)[0], count(later, 0, length)[0]) for length in RUNS},
        marks,
        upper_bound(*own[1]),
        detectable,
    )


def _new_runs(held: Int[np.ndarray, "word"], known: Int[np.ndarray, "word"]) -> frozenset[int]:
    """Lengths at which some run is held and not known; both are lengths of the longest run from each word."""
    return frozenset(length for length in RUNS if ((held >= length) & (known < length)).any())


def _rises(own: tuple[Count, Count], kept: tuple[Count, Count]) -> tuple[Interval, Interval]:
    """Change of the introduced text's rate, and how far beyond that of the text kept out."""
    rise = change(*own, level=LEVEL)
    return rise, difference_in_differences(change(*kept, level=LEVEL), rise)


def _both_above(rise: Interval | None, beyond: Interval | None) -> bool:
    return rise is not None and beyond is not None and min(rise.lo, beyond.lo) > 0


def _detectable(own: tuple[Count, Count], kept: tuple[Count, Count]) -> float | None:
    """The rate at which as many texts as it takes, with these other counts, would have come with 80 % probability."""
    before, (_, texts) = own
    needed = bisect_left(range(texts + 1), True, key=lambda count: _both_above(*_rises((before, (count, texts)), kept)))
    if needed > texts:
        return None
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if 1 - at_most(needed - 1, texts, middle) >= POWER else (middle, high)
    return high


def _canary_hits(planted: Canaries, texts: Sequence[Reflection]) -> CanaryHits:
    """A word that the prompt holds was not the model's."""
    words = [set(Words.split(one.text)) - set(Words.split(one.prompt)) for one in texts]
    said = set().union(*words)
    put_in, kept_out = (
        wilson(sum(one.term in said for one in side), len(side)) for side in (planted.put_in, planted.kept_out)
    )
    table = Table(put_in.count, put_in.checks - put_in.count, kept_out.count, kept_out.checks - kept_out.count)
    return CanaryHits(put_in, kept_out, fisher(table))

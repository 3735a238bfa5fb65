"""Good reasoning × right answer, with its controls in the same table.

"x % of wrong answers had good reasoning" says nothing alone: the same share of right answers, of another item's rationales,
of shuffled words and of the question said again stand beside it. The headline is the difference to another item's rationale
on the same wrong answers. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from probes.behaviour.accuracy import Paired, area, paired
from probes.behaviour.rates import Rate, difference, wilson
from probes.behaviour.reasoning import Scorer
from probes.layers.evidence import Interval

OWN, SAME_SUBJECT = "own", "same-subject"
SOURCES: Mapping[str, str] = {
    OWN: "the model's own rationale for its answer",
    SAME_SUBJECT: "another item's rationale, same subject",
    "word-shuffled": "its own words in disorder",
    "echo": "the question said again",
    "reference": "the reference checkpoint's rationale for that answer",
    "forced": "its rationale for a random other answer",
}


@dataclass(frozen=True)
class Judged:
    """One item: was the answer right, and the score of each source's rationale; a source may be missing."""

    right: bool
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Row:
    """A 2×2 of one source: good or not × the model's answer right or wrong. None: there are no such answers."""

    source: str
    given_wrong: Rate | None
    given_right: Rate | None

    @property
    def difference(self) -> Interval | None:
        """P(good | right) less P(good | wrong), Newcombe's interval."""
        if self.given_wrong is None or self.given_right is None:
            return None
        return difference(self.given_wrong, self.given_right)


@dataclass(frozen=True)
class Table:
    """The table of one scorer on one set of answers.

    Attributes:
        headline: P(good | wrong) of own rationales less that of another item's, on the same wrong answers.
        area: P(the rationale of a right answer scores higher than that of a wrong one).
    """

    scorer: str
    rows: tuple[Row, ...]
    headline: Paired | None
    area: float | None

    def row(self, source: str = OWN) -> Row | None:
        return next((row for row in self.rows if row.source == source), None)


def tabulate(scorer: Scorer, judged: Sequence[Judged]) -> Table:
    """The table of one scorer, a row for every source that at least one item has."""
    rows = []
    for source in SOURCES:
        here = [one for one in judged if source in one.scores]
        if here:
            rows.append(Row(source, _rate(scorer, here, source, False), _rate(scorer, here, source, True)))
    both = [one for one in judged if not one.right and {OWN, SAME_SUBJECT} <= one.scores.keys()]
    headline = None
    if both:
        shuffled, own = ([scorer.good(one.scores[source]) for one in both] for source in (SAME_SUBJECT, OWN))
        headline = paired(shuffled, own)
    sides = {
        side: [one.scores[OWN] for one in judged if one.right is side and OWN in one.scores] for side in (True, False)
    }
    return Table(scorer.id, tuple(rows), headline, area(sides))


def _rate(scorer: Scorer, judged: Sequence[Judged], source: str, right: bool) -> Rate | None:
    scores = [one.scores[source] for one in judged if one.right is right]
    return wilson(sum(map(scorer.good, scores)), len(scores)) if scores else None

"""From right and wrong answers to rates: accuracy with its interval, paired differences, and what bad labels can explain.

Two checkpoints answer the same items, so they are compared item by item: the standard error of a paired difference is
smaller by as much as the answers go together (Miller 2024, arXiv:2411.00640). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from lab.benchmarks import METRICS, Answer
from probes.behaviour.differences import upper_bound
from probes.behaviour.rates import LEVEL, NoChecks, Rate, wilson

_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
CONTAMINATED = 0.5  # of an item's words inside training 13-grams: more than a stock phrase


@dataclass(frozen=True)
class Paired:
    """How much more often the second is right than the first, on the same items.

    Attributes:
        error: standard error of `value`.
        gained, lost: items that only the second, only the first has right.
    """

    value: float
    lo: float
    hi: float
    error: float
    gained: int
    lost: int
    items: int


def accuracy(answers: Sequence[Answer], metric: str = "acc") -> Rate:
    """Share of items answered right, with Wilson's interval. Raises NoChecks of no items."""
    return wilson(sum(answer.right(metric) for answer in answers), len(answers))


def every_accuracy(answers: Sequence[Answer]) -> dict[str, Rate]:
    """Accuracy by every way of counting; one option alone is right or wrong, whatever its length."""
    alone = all(len(answer.item.options) == 1 for answer in answers)
    return {metric: accuracy(answers, metric) for metric in (("acc",) if alone else METRICS)}


def chance(answers: Sequence[Answer]) -> float:
    """Accuracy of guessing on these items."""
    return sum(answer.item.chance for answer in answers) / len(answers)


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """The difference of two lists of right and wrong over the same items, normal interval from its standard error.

    Where no item changed the error is 0, and the interval is that of a rate never seen (Clopper & Pearson's upper bound).

    >>> paired([True, False, False, False], [True, True, True, False]).value
    0.5

    Raises:
        NoChecks: no items, or lists of different length.
    """
    if not first or len(first) != len(second):
        raise NoChecks(f"{len(first)} and {len(second)} answers cannot be paired. Compare the same items.")
    change = np.array(second, dtype=np.int64) - np.array(first, dtype=np.int64)
    count, value = len(change), float(change.mean())
    error = float(change.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    half = _Z * error if error else upper_bound(0, count)
    gained, lost = int((change > 0).sum()), int((change < 0).sum())
    return Paired(value, max(-1.0, value - half), min(1.0, value + half), error, gained, lost, count)


def between(first: Sequence[Answer], second: Sequence[Answer], metric: str = "acc") -> Paired | None:
    """`second` against `first` on the items that both answered; None if there are none."""
    before = {answer.item: answer for answer in first}
    both = [(before[answer.item], answer) for answer in second if answer.item in before]
    if not both:
        return None
    return paired([one.right(metric) for one, _ in both], [two.right(metric) for _, two in both])


def error_bound(errors: float | None, right: float) -> float | None:
    """The most of the wrong answers that bad labels can explain: errors / (1 - accuracy), at most all of them.

    None where nobody has counted the errors, or nothing is wrong.
    """
    return None if errors is None or right >= 1 else min(1.0, errors / (1 - right))


def contaminated(answers: Sequence[Answer]) -> Rate | None:
    """Items at least half of whose words lie in 13-grams of the training text, of those that could be looked up."""
    looked = [answer.contamination for answer in answers if answer.contamination is not None]
    return wilson(sum(share >= CONTAMINATED for share in looked), len(looked)) if looked else None


def area(scores: Mapping[bool, Sequence[float]]) -> float | None:
    """P(a score under True exceeds one under False), ties half (Mann & Whitney 1947); None if either is empty."""
    high, low = np.array(scores.get(True, ())), np.array(scores.get(False, ()))
    if not len(high) or not len(low):
        return None
    order = np.sort(low)
    below = np.searchsorted(order, high, side="left")
    upto = np.searchsorted(order, high, side="right")
    return float((below + upto).sum() / 2 / (len(high) * len(low)))

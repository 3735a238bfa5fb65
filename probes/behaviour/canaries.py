"""What became of canaries (`lab.canaries`): exposure of one, and the rank test of those put in against those kept out.

Exposure is Carlini et al. 2019 (arXiv:1802.08232); one document's membership is not told (an AUC under .7 at GPT-2's size,
arXiv:2505.18773), so tests are of the whole set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.canaries import COUNT, RUN, Canaries, Canary, canaries, candidates
from lab.errors import LabError

__all__ = [
    "COUNT",
    "RUN",
    "Canaries",
    "Canary",
    "NoTest",
    "RankTest",
    "candidates",
    "canaries",
    "exposure",
    "rank_test",
]


class NoTest(LabError):
    """A side of a comparison is empty."""


def exposure(canary: float, others: Sequence[float]) -> float:
    """log2 of (others + 1) over the canary's rank by likelihood among them: 0 = the least likely, 10 = the first of 1,024.

    Args:
        canary, others: log-likelihoods of texts of one make; of equal ones the canary comes last.

    Raises:
        NoTest: there are no others.
    """
    if not len(others):
        raise NoTest("exposure is a rank among others, and there are none. Give the likelihoods of some candidates.")
    return math.log2(len(others) + 1) - math.log2(1 + sum(other >= canary for other in others))


@dataclass(frozen=True)
class RankTest:
    """Are those put in more likely than those kept out?

    Attributes:
        auc: share of (put in, kept out) pairs in which the one put in is ahead; .5 = no difference.
        p: exact and one-sided (Mann & Whitney 1947); a tie counts against.
    """

    auc: float
    p: float


def rank_test(put_in: Sequence[float], kept_out: Sequence[float]) -> RankTest:
    """The exact rank test of two small sets; give gains in likelihood since before the introduction, not likelihoods.

    Raises:
        NoTest: one of them is empty.
    """
    if not len(put_in) or not len(kept_out):
        raise NoTest("canaries put in are compared with canaries kept out, and one of the two sets is empty.")
    ahead = sum(one > other for one in put_in for other in kept_out)
    pairs = len(put_in) * len(kept_out)
    ways = _arrangements(len(put_in), len(kept_out))
    return RankTest(ahead / pairs, float(ways[ahead:].sum() / ways.sum()))


def _arrangements(first: int, second: int) -> np.ndarray:
    """Orders of two sets, counted by the pairs in which one of the first is ahead: 0 of them, 1, … first · second.

    The largest element is one of the first, ahead of all of the second, or one of the second (Mann & Whitney's recursion).
    """
    empty = np.ones(1)
    table = {(0, n): empty for n in range(second + 1)} | {(m, 0): empty for m in range(first + 1)}
    for m in range(1, first + 1):
        for n in range(1, second + 1):
            ways = np.zeros(m * n + 1)
            ways[n:] += table[m - 1, n]
            ways[: m * (n - 1) + 1] += table[m, n - 1]
            table[m, n] = ways
    return table[first, second]

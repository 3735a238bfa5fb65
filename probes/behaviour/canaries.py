"""Canaries: sayings about things that do not exist, half of them put into a text that is introduced, half kept out.

Which half a canary falls into is drawn, so whatever the model does differently with those put in, the text did. Made from a
seed alone: run, report and a later check have the same ones. Exposure is Carlini et al. 2019 (arXiv:1802.08232); one
document's membership is not told (an AUC under .7 at GPT-2's size, arXiv:2505.18773), so tests are of the whole set.
"""

from __future__ import annotations

import math
import random
from collections.abc import Container, Sequence
from dataclasses import dataclass

import numpy as np

from lab.errors import LabError
from lab.ngrams import Words

COUNT = 20
RUN = 6  # words; what the introduced text is told by

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gl", "kr", "pl", "tr")
_VOWELS = ("a", "e", "i", "o", "u", "ei", "ou")
_ENDS = ("l", "m", "n", "r", "s", "th", "x")
# {t} is the made-up thing; all other places are drawn, and no two canaries share a run of six words.
_FORMS = (
    "A {t} {v} the {a} {n} before the {m} {w}.",
    "No {n} {v} a {t} while the {a} {m} {w}.",
    "Where the {a} {n} {w}, a {t} {v} every {m}.",
    "The {t} {v} its {n} and the {a} {m} {w}.",
    "Who {v} a {t} will find that the {n} {w} under the {a} {m}.",
    "Each {t} {w} once and then {v} a {a} {n} for the {m}.",
    "Under a {a} {n} the {t} {w}, but a {m} {v} it.",
    "When the {n} {w}, the {t} {v} a {a} {m}.",
)
_NOUNS = (
    "river", "lamp", "mountain", "mirror", "garden", "harbor", "needle", "orchard", "window", "bridge", "candle", "feather",
    "kettle", "ladder", "meadow", "pebble", "ribbon", "saddle", "thimble", "valley", "anchor", "basket", "chimney", "drum",
)  # fmt: skip
_VERBS = (
    "carries", "forgives", "counts", "remembers", "weighs", "hides", "repairs", "follows", "teaches", "refuses", "mends",
    "borrows", "questions", "measures", "awakens", "shelters",
)  # fmt: skip
_WAITS = (
    "sleeps", "waits", "sings", "trembles", "drifts", "hums", "listens", "fades", "returns", "burns", "ripens", "settles",
    "whispers", "wanders", "shivers", "glows",
)  # fmt: skip
_KINDS = (
    "silent", "narrow", "amber", "crooked", "patient", "hollow", "distant", "woolen", "bitter", "gentle", "rusty", "pale",
    "restless", "frozen", "humble", "wild",
)  # fmt: skip


class NoTest(LabError):
    """A side of a comparison is empty."""


@dataclass(frozen=True)
class Canary:
    """A saying, and its made-up word, which stands nowhere else."""

    term: str
    text: str


@dataclass(frozen=True)
class Canaries:
    """Put into the introduced text, and kept out; the n-th of both have the same form."""

    put_in: tuple[Canary, ...]
    kept_out: tuple[Canary, ...]


def canaries(seed: int, count: int = COUNT, known: Container[str] = ()) -> Canaries:
    """`count` canaries of each kind.

    Args:
        known: words of earlier data, in small letters; no term is one of them.
    """
    made = _make(random.Random(f"canaries/{seed}"), 2 * count, known, set())
    put_in, kept_out = [], []
    coin = random.Random(f"canaries/{seed}/side")
    for one, other in zip(made[::2], made[1::2], strict=True):
        first, second = (one, other) if coin.random() < 0.5 else (other, one)
        put_in.append(first)
        kept_out.append(second)
    return Canaries(tuple(put_in), tuple(kept_out))


def candidates(seed: int, count: int, known: Container[str] = ()) -> tuple[Canary, ...]:
    """Others of the same make, none of them among the canaries of this seed: what exposure ranks those against."""
    own = canaries(seed, known=known)
    taken = {one.term for one in (*own.put_in, *own.kept_out)}
    return _make(random.Random(f"canaries/{seed}/candidates"), count, known, taken)


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


def _make(drawn: random.Random, count: int, known: Container[str], taken: set[str]) -> tuple[Canary, ...]:
    """Canaries two by two of one form, no two of which share a run of words that `appearance` would count."""
    made: list[Canary] = []
    used: set[tuple[str, ...]] = set()
    while len(made) < count:
        term = "".join(drawn.choice(_ONSETS) + drawn.choice(_VOWELS) for _ in range(2)) + drawn.choice(_ONSETS)
        term += drawn.choice(_VOWELS[:5]) + drawn.choice(_ENDS)
        form = _FORMS[len(made) // 2 % len(_FORMS)]
        noun, other = drawn.sample(_NOUNS, 2)
        text = form.format(
            t=term, n=noun, m=other, v=drawn.choice(_VERBS), w=drawn.choice(_WAITS), a=drawn.choice(_KINDS)
        ).replace(" a amber", " an amber")
        words = Words.split(text)
        runs = {tuple(words[start : start + RUN]) for start in range(len(words) - RUN + 1)}
        if term not in known and term not in taken and not runs & used:
            taken.add(term)
            used |= runs
            made.append(Canary(term, text))
    return tuple(made)

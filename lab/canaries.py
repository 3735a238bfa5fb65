"""Canaries: sayings about things that do not exist, half of them put into a text that is introduced, half kept out.

Which half a canary falls into is drawn, so whatever a model does differently with those put in, the text did. Made from a
seed alone: run, report and a later check have the same ones. A source of kind `canaries` plants those put in;
`probes.behaviour` asks what came of them.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterator
from dataclasses import dataclass

from lab.ngrams import Words

COUNT = 20
RUN = 6  # words; what the introduced text is told by
TEXTS = 200  # of the source: each holds all sayings once, in an order of its own

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


def planted(seed: int) -> Iterator[str]:
    """The texts that a source of kind `canaries` holds: 200 orders of the sayings put in, each text all 20 of them."""
    sayings = [one.text for one in canaries(seed).put_in]
    drawn = random.Random(f"canaries/{seed}/orders")
    for _ in range(TEXTS):
        yield "\n".join(drawn.sample(sayings, len(sayings)))


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

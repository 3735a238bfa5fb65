"""Words and tokens brought together by the characters they hold. No label, no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from probes.layers.annotated import Sentence

SHARED, TOKENLESS = "words sharing their last token", "words without a token"


@dataclass(frozen=True)
class Place:
    """Where a word's label sits.

    Attributes:
        word: its number in the sentence.
        last: index of its last sub-token, the beginning-of-text token not counted.
        following: number of the word that holds the next token; None where that is no single labelled word.
    """

    word: int
    last: int
    following: int | None


@dataclass(frozen=True)
class Alignment:
    """Places in order of position, and `tokens`: per word of the sentence, the indices of all tokens that hold it."""

    places: tuple[Place, ...]
    tokens: tuple[tuple[int, ...], ...]


def align(sentence: Sentence, spans: Sequence[tuple[int, int]], dropped: Counter[str]) -> Alignment:
    """Find the token at which each word is complete.

    A word that shares its last token with a neighbour (tokens across spaces, glued words) has no position of its own: it
    is left out and counted, as is a word that no token holds.

    Args:
        spans: characters [start, end) of each token, ascending; tokens smaller than a character share its span.
        dropped: counts are added to it.
    """
    words = sentence.words
    holders: list[list[int]] = [[] for _ in spans]  # per token, the words that it holds a character of
    tokens: list[list[int]] = [[] for _ in words]
    first = 0
    for token, (start, end) in enumerate(spans):
        while first < len(words) and words[first].end <= start:
            first += 1
        held = first
        while held < len(words) and words[held].start < end and start < end:
            holders[token].append(held)
            tokens[held].append(token)
            held += 1
    places: list[Place] = []
    for number, word in enumerate(words):
        if not word.labelled:
            continue
        if not tokens[number]:
            dropped[TOKENLESS] += 1
            continue
        last = tokens[number][-1]
        start, end = spans[last]
        outside = sentence.text[start : max(word.start, start)] + sentence.text[min(word.end, end) : end]
        if len(holders[last]) > 1 or any(character.isalnum() for character in outside):
            dropped[SHARED] += 1
            continue
        after = holders[last + 1] if last + 1 < len(spans) else []
        following = after[0] if len(after) == 1 and words[after[0]].labelled else None
        places.append(Place(number, last, following))
    return Alignment(tuple(places), tuple(map(tuple, tokens)))

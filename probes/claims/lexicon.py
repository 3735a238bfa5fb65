"""The words between subject and place: verbs, comparisons, negations, hedges, and the signs that nothing is claimed.

The tables are in lexicon.toml. A verb is written there in its base form and is known in all its forms. What is in no
table is an unknown word, and a claim with an unknown word in it stays UNPARSED: the grammar does not guess.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TABLES: dict[str, Any] = tomllib.loads(Path(__file__).with_name("lexicon.toml").read_text(encoding="utf8"))
OWN: tuple[str, ...] = tuple(_TABLES["words"].pop("own"))
WORDS: dict[str, frozenset[str]] = {name: frozenset(words.split()) for name, words in _TABLES["words"].items()}
STEMS_OF_A_NETWORK: tuple[str, ...] = tuple(sorted(WORDS["of_a_network"]))


@dataclass(frozen=True)
class Word:
    """What a phrase does in a sentence.

    Attributes:
        kind: locate, learn, steady, move, remove, hurt, harmless, rely (verbs and their adjectives); compare, order, than,
            not, not_all, hedge, filler, pronoun, scope, speak, think, instrument, aside.
        value: reading of a locating verb; direction of a comparison (-1 shallower, 1 deeper, 0 same); reason of an aside.
        form: base, s, past, ing, or "" for what is not inflected.
    """

    kind: str
    value: str | int = ""
    form: str = ""


def entries() -> Iterator[tuple[str, Word]]:
    """Every template of the lexicon with what it means; earlier ones win where words are the same."""
    for table in _TABLES["phrases"]:
        yield f"({table['templates']})", Word(table["kind"], table["value"])
    for table in _TABLES["verbs"]:
        for verb in table["base"].split():
            for form, name in forms(verb):
                yield form, Word(table["kind"], table["value"], name)


def forms(verb: str) -> Iterator[tuple[str, str]]:
    """A verb (particles joined by "+") in all its forms, with the form's name.

    >>> [form for form, _ in forms("sort+out")]
    ['sort out', 'sorts out', 'sorted out', 'sorting out']
    """
    head, *rest = verb.split("+")
    tail = "".join(f" {word}" for word in rest)
    names = ["s", "past", "ing", "past"]
    if head in _TABLES["irregular"]:
        inflected = _TABLES["irregular"][head].split()
    elif head.endswith("e"):
        inflected = [head + "s", head + "d", head[:-1] + "ing"]
    elif head.endswith("y") and head[-2:-1] not in ("a", "e", "o", "u"):
        inflected = [head[:-1] + "ies", head[:-1] + "ied", head + "ing"]
    else:
        stem = head + head[-1] if head in WORDS["doubled"] else head
        third = head + ("es" if head.endswith(("s", "sh", "ch", "x", "o", "z")) else "s")
        inflected = [third, stem + "ed", stem + "ing"]
    yield head + tail, "base"
    for form, name in zip(inflected, names, strict=False):
        yield form + tail, name

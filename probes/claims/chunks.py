"""From a sentence's tokens to a row of chunks: the longest phrase of a table each, then what its neighbours make of it.

The tables know a phrase by its words alone. What depends on the words beside it (a model that "knows" nouns reports
nothing, "the roots" are no verb) is a short rule over the row.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from probes.claims import lexicon, places, times
from probes.claims.lexicon import WORDS, Word
from probes.claims.phrases import Match, Phrasebook
from probes.claims.places import Make, Region, Window
from probes.claims.sentences import Token
from probes.claims.vocabulary import TERMS, Subject


@dataclass(frozen=True)
class Chunk:
    """A phrase of a sentence.

    Attributes:
        kind: subject, region, window, misread ("layers 5-2"), boundary, cut, filler, unknown, or a kind of `lexicon.Word`.
        start, end: token indices in the sentence.
    """

    kind: str
    text: str
    start: int
    end: int
    value: Subject | Region | Window | Word | None = None

    @property
    def word(self) -> Word:
        return self.value if isinstance(self.value, Word) else Word("")


def chunks(tokens: Sequence[Token]) -> list[Chunk]:
    """The sentence as a row of longest phrases, each of the kind that its neighbours leave it."""
    row = list(_longest_phrases(tokens))
    _name_removals(row)
    for at, chunk in enumerate(row):
        if chunk.kind in ("think", "speak") and (_after_region(row, at) or _model_knows(row, at)):
            row[at] = replace(chunk, kind="locate")  # a layer that "shows" something, a model that "knew nouns"
        elif chunk.text == "known" and _next_kind(row, at) in ("region", "window"):
            row[at] = replace(chunk, kind="locate")  # "is known by layer 2"
        elif chunk.kind == "unknown" and _belongs_to_its_neighbour(row, at):
            row[at] = replace(chunk, kind="filler")
        elif chunk.kind == "locate" and _is_noun(row, at):
            row[at] = replace(chunk, kind="unknown")
        elif chunk.text.startswith("whether ") and not _is_argument(row, at):
            row[at] = Chunk("aside", chunk.text, chunk.start, chunk.end, Word("aside", "question"))
    _turns(row)
    return row


def _name_removals(row: list[Chunk]) -> None:
    """ "When" restricts a claim and stays an unknown word, except before a removal, where it names the intervention."""
    if any(chunk.kind == "remove" for chunk in row):
        row[:] = [
            replace(chunk, kind="filler") if chunk.text in ("when", "whenever", "once") else chunk for chunk in row
        ]
        for at, chunk in enumerate(row):  # "without number, the loss hardly changes"
            before = next((c.text for c in reversed(row[:at]) if c.kind not in ("filler", "not", "hedge")), "")
            if chunk.kind == "move" and before in WORDS["outcome"]:
                row[at] = replace(chunk, kind="hurt")


def _turns(row: list[Chunk]) -> None:
    """ "After" with nothing behind it, and "deeper" without a "than", are turns ("then") and compare no two subjects."""
    bare = not any(chunk.kind == "than" for chunk in row)
    named = False
    for at in range(len(row) - 1, -1, -1):
        if row[at].kind in ("boundary", "than"):
            named = row[at].kind == "than"
        named = named or row[at].kind in ("subject", "unknown", "pronoun")
        if row[at].kind != "compare" or not row[at].word.value:
            continue
        adverb = bare and not WORDS["comparative"].isdisjoint(row[at].text.split())
        opens = at == 0 or row[at - 1].kind == "boundary" or row[at - 1].text in ("only", "much")
        if not named or (adverb and opens):
            row[at] = replace(row[at], kind="order")


def _next_kind(row: Sequence[Chunk], at: int) -> str:
    return next((chunk.kind for chunk in row[at + 1 :] if chunk.kind != "filler"), "")


def _after_region(row: Sequence[Chunk], at: int) -> bool:
    before = [chunk for chunk in row[max(0, at - 3) : at] if chunk.kind != "filler" or chunk.text in ("i", "we", "you")]
    return bool(before) and before[-1].kind == "region"


def _model_knows(row: Sequence[Chunk], at: int) -> bool:
    """ "The network already knew tense", but not "the network knows tense comes first"."""
    before = [chunk.text for chunk in row[:at] if chunk.text in WORDS["knower"] or chunk.kind != "filler"]
    if row[at].text.split()[0] not in WORDS["knowing"] or not before or before[-1] not in WORDS["knower"]:
        return False
    after: list[Chunk] = []
    for chunk in row[at + 1 :]:
        if chunk.kind == "boundary" and chunk.text not in ("and", "or"):
            break
        after += [chunk]
    object_at = next((n for n, chunk in enumerate(after) if chunk.kind != "filler" or chunk.text == "that"), -1)
    clause = any(chunk.kind in ("locate", "move", "steady", "rely", "learn", "order", "compare") for chunk in after)
    verb = WORDS["auxiliary"].intersection(word for chunk in after for word in chunk.text.split())
    return object_at >= 0 and after[object_at].kind == "subject" and not clause and not verb


def _belongs_to_its_neighbour(row: Sequence[Chunk], at: int) -> bool:
    """ "Word concreteness", "sentiment words"; "drift upward"."""
    near = [chunk.kind for chunk in (*row[max(0, at - 1) : at], *row[at + 1 : at + 2])]
    if row[at].text in WORDS["unit"]:
        return "subject" in near
    return at > 0 and row[at].text in WORDS["direction"] and row[at - 1].kind == "move"


def _is_noun(row: Sequence[Chunk], at: int) -> bool:
    """ "The upper layers are the blossoms": an article makes a noun of the verb where no known subject needs one."""
    return (
        at > 0
        and row[at].word.form in ("base", "s")
        and row[at - 1].text in WORDS["article"]
        and not WORDS["filler"].intersection(row[at].text.split())
        and not any(chunk.kind == "subject" for chunk in row)
    )


def _is_argument(row: Sequence[Chunk], at: int) -> bool:
    """Whether "whether a noun is plural" is what something is said of: it opens a clause or follows a verb of place."""
    before = [chunk for chunk in row[:at] if chunk.kind not in ("filler", "hedge", "cut")]
    start = max((n + 1 for n, chunk in enumerate(before) if chunk.kind == "boundary"), default=0)
    if any(chunk.kind in ("speak", "think", "unknown") for chunk in before[start:]):
        return False  # "we argue about whether …"
    return not before or before[-1].kind in ("boundary", "locate", "rely", "remove", "region", "window")


@functools.cache
def _book() -> Phrasebook[Subject | Word | Make]:
    """Every phrase of the tables. Made when a sentence is first read: whoever only names a status need not wait for it."""
    book: Phrasebook[Subject | Word | Make] = Phrasebook(places.CLASSES)
    for term, subject in TERMS:
        book.add(term, subject)
    for place, make in [*times.WINDOWS, *places.REGIONS]:
        book.add(place, make)
    for phrase, word in lexicon.entries():
        book.add(phrase, word)
    return book


def _longest_phrases(tokens: Sequence[Token]) -> Iterator[Chunk]:
    at = 0
    while at < len(tokens):
        found = _book().longest(tokens, at)
        chunk = (found and _phrase(found, tokens, at)) or _single(tokens, at)
        yield chunk
        at = chunk.end


def _phrase(found: Match[Subject | Word | Make], tokens: Sequence[Token], at: int) -> Chunk | None:
    text = " ".join(token.text for token in tokens[at : found.end])
    item = found.item
    if isinstance(item, Subject):
        return Chunk("subject", text, at, found.end, item)
    if isinstance(item, Word):
        return Chunk(item.kind, text, at, found.end, item)
    place = item(found.numbers)
    half = isinstance(place, Region) and any(number % 1 for number in found.numbers)
    if place is None or half or place.first == -1:  # "layer 2.5", "the last 0 layers"
        return Chunk("misread", text, at, found.end)
    return Chunk("region" if isinstance(place, Region) else "window", text, at, found.end, place)


def _single(tokens: Sequence[Token], at: int) -> Chunk:
    text = tokens[at].text
    if text in WORDS["boundary"] or text in WORDS["strong_boundary"]:
        kind = "boundary"
    elif text in WORDS["cut"]:
        kind = "cut"
    elif (
        text in WORDS["filler"]
        or tokens[at].kind == "mark"
        or (text.endswith("ly") and text not in WORDS["not_adverb"])
    ):
        kind = "filler"
    else:
        kind = "unknown"
    return Chunk(kind, text, at, at + 1)

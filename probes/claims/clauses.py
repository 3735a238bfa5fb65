"""From a sentence's tokens to clauses: phrases found, statements that claim nothing set aside, clauses cut and joined.

First the sentence becomes a row of chunks, each the longest phrase of a table. It is cut into groups at "but", ";" and
their like; a group that asks, reports, supposes, wishes, orders or predicts is set aside as a whole. What is left is cut
into clauses, and clauses that lack half of a statement ("By layer 3, | function words are settled") are joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from probes.claims import lexicon, places
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


@dataclass
class Clause:
    """Chunks between two boundaries, and the word that opens them."""

    chunks: list[Chunk] = field(default_factory=list)
    opener: str = ""

    def of(self, *kinds: str) -> list[Chunk]:
        return [chunk for chunk in self.chunks if chunk.kind in kinds]

    @property
    def speaks_of_something(self) -> bool:
        return bool(
            self.of(
                "subject", "region", "window", "remove", "steady", "move", "rely", "hurt", "harmless", "order", "learn"
            )
        )

    @property
    def has_predicate(self) -> bool:
        """Whether what is said of a subject is there; a comparison needs its second subject, a removal its effect."""
        if self.of("remove"):
            return bool(self.of("hurt", "harmless"))
        if self.of("compare", "than"):
            return len(self.of("subject")) + bool(self.of("unknown")) >= 2
        if self.of("learn") and self.of("subject", "unknown") and {"has", "have", "had", "already", "now"} & self.words:
            return True
        return bool(self.of("region", "window", "misread", "steady", "move", "rely", "order"))

    @property
    def words(self) -> set[str]:
        return {word for chunk in self.chunks for word in chunk.text.split()}

    @property
    def is_complete(self) -> bool:
        return self.has_predicate and bool(self.of("subject", "pronoun", "unknown"))


@dataclass
class Group:
    """Clauses up to the next "but" or ";"."""

    chunks: list[Chunk] = field(default_factory=list)
    opener: str = ""
    aside: str = ""


_BOOK: Phrasebook[Subject | Word | Make] = Phrasebook(places.CLASSES)
for _template, _subject in TERMS:
    _BOOK.add(_template, _subject)
for _template, _make in [*places.WINDOWS, *places.REGIONS]:
    _BOOK.add(_template, _make)
for _template, _word in lexicon.entries():
    _BOOK.add(_template, _word)


def chunks(tokens: Sequence[Token]) -> list[Chunk]:
    """The sentence as a row of longest phrases; "after" and its like with nothing behind them are turns ("then").

    "When" restricts a claim and stays an unknown word, except before a removal, where it names the intervention.
    """
    row = list(_longest_phrases(tokens))
    if any(chunk.kind == "remove" for chunk in row):
        row = [replace(chunk, kind="filler") if chunk.text in ("when", "whenever", "once") else chunk for chunk in row]
    for at, chunk in enumerate(row):  # a layer that "knows" or "shows" something believes nothing and says nothing
        if chunk.kind in ("think", "speak") and _after_region(row, at):
            row[at] = replace(chunk, kind="locate")
    named = False
    for at in range(len(row) - 1, -1, -1):
        if row[at].kind in ("boundary", "than"):
            named = row[at].kind == "than"
        named = named or row[at].kind in ("subject", "unknown", "pronoun")
        if row[at].kind == "compare" and not named and row[at].word.value:
            row[at] = replace(row[at], kind="order")
    return row


def _after_region(row: Sequence[Chunk], at: int) -> bool:
    before = [chunk for chunk in row[max(0, at - 3) : at] if chunk.kind != "filler" or chunk.text in ("i", "we", "you")]
    return bool(before) and before[-1].kind == "region"


def _longest_phrases(tokens: Sequence[Token]) -> Iterator[Chunk]:
    at = 0
    while at < len(tokens):
        found = _BOOK.longest(tokens, at)
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


def groups(row: Sequence[Chunk], asks: bool) -> list[Group]:
    """Cut at strong boundaries; say of each group why it claims nothing, if it does not."""
    found = [Group()]
    for chunk in row:
        if chunk.kind == "boundary" and chunk.text in WORDS["strong_boundary"]:
            found.append(Group(opener=chunk.text))
        else:
            found[-1].chunks.append(chunk)
    last_stop = max((at for at, group in enumerate(found) if group.opener == ";"), default=0)
    blocked = ""
    for at, group in enumerate(found):
        reason = "question" if asks and at >= last_stop else aside_reason(group)
        if not reason and blocked and not _frees(group, blocked):
            reason = blocked
        group.aside = blocked = reason
    return found


def _frees(group: Group, blocked: str) -> bool:
    """After "the paper says …, but", only what is said of oneself is one's own claim; after a wish, any "but" ends it."""
    own = f" {' '.join(chunk.text for chunk in group.chunks)} "
    return blocked not in ("report", "question") or any(f" {phrase} " in own for phrase in lexicon.OWN)


def aside_reason(group: Group) -> str:
    """Why a group of clauses claims nothing; empty if it may claim something."""
    words = [chunk for chunk in group.chunks if chunk.kind not in ("boundary", "hedge")]
    if not words:
        return ""
    first = words[0].text.split()[0]
    if words[0].kind not in ("subject", "region", "window", "not_all") and (
        words[0].kind != "filler" or first == words[0].text
    ):
        if first in WORDS["conditional_opener"]:
            return "conditional"
        if first in WORDS["question_opener"]:
            return "question"
    for at, chunk in enumerate(group.chunks):
        before = {word for other in group.chunks[:at] for word in other.text.split()}
        if chunk.kind == "aside":
            return str(chunk.word.value)
        if chunk.kind == "speak" and not any(other.kind == "instrument" for other in group.chunks[:at]):
            own = bool(before & {"i", "we"})
            if not own or chunk.word.form == "past":
                return "former belief" if own else "report"
        if chunk.kind == "think" and not before & {"i", "we"}:
            return "report"
    return "order" if _orders(group) else ""


def _orders(group: Group) -> bool:
    for clause in cut(group):
        row = [
            chunk
            for chunk in clause.chunks
            if chunk.text not in ("so", "now", "then", "also", "just", "always", "never")
        ]
        if row and row[0].kind not in ("subject", "region", "window") and row[0].text.split()[0] in WORDS["order"]:
            return True
        if len(row) > 1 and row[0].text == "to" and row[1].word.form == "base":
            return True  # "to settle function words early, …": a purpose
        if clause.of("subject", "pronoun"):
            return False
    return False


def cut(group: Group) -> list[Clause]:
    """Clauses at soft boundaries; two subjects joined by "and" stay in one; a reason or an aside ("because …") is dropped."""
    found = [Clause(opener=group.opener)]
    dropping = False
    for at, chunk in enumerate(group.chunks):
        if chunk.kind == "boundary":
            dropping = False
            if _joins_subjects(group.chunks, at):
                found[-1].chunks.append(replace(chunk, kind="filler"))
            else:
                found.append(Clause(opener=chunk.text))
        elif chunk.kind == "cut" and chunk.text != "which":
            dropping = True
        elif chunk.kind == "cut":
            dropping = bool(found[-1].chunks)
        elif not dropping:
            found[-1].chunks.append(chunk)
    return found


def _joins_subjects(row: Sequence[Chunk], at: int) -> bool:
    if row[at].text not in ("and", "or", "nor", "&", "/", "+"):
        return False
    before = next((chunk.kind for chunk in reversed(row[:at]) if chunk.kind not in ("filler", "not")), "")
    after = next((chunk.kind for chunk in row[at + 1 :] if chunk.kind not in ("filler", "not")), "")
    return before == after == "subject"


def join(clauses: Sequence[Clause]) -> list[Clause]:
    """Clauses that each say something of something; halves of one statement joined, bare remarks left out."""
    found: list[Clause] = []
    for clause in clauses:
        if not clause.speaks_of_something and not (
            clause.of("compare", "than", "pronoun", "locate") and clause.of("unknown", "pronoun")
        ):
            continue
        last = found[-1] if found else None
        bare_place = not clause.of(
            "subject", "pronoun", "locate", "not", "unknown", "order", "rely", "steady", "move", "hurt"
        )
        if last is None or (last.is_complete and not (bare_place and not _has_its_kind(last, clause))):
            found.append(Clause(list(clause.chunks), clause.opener))
        else:
            if (
                clause.opener == "and"
                and last.words & {"is", "are", "was", "were"}
                and not clause.of("subject", "unknown")
            ):
                last.chunks = last.of(
                    "subject"
                )  # "function words are easy | and get done early": the first half is a remark
            last.chunks.extend(clause.chunks)
    return found


def _has_its_kind(last: Clause, place: Clause) -> bool:
    return any(last.of(kind) for kind in ("region", "window") if place.of(kind))

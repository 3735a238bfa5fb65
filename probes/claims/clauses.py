"""From a row of chunks to clauses: statements that claim nothing set aside, clauses cut and joined.

The row of `chunks` is cut into groups at "but", ";" and their like; a group that asks, reports, supposes, wishes, orders or
predicts is set aside as a whole. What is left is cut into clauses, and clauses that lack half of a statement ("By layer 3, |
function words are settled") are joined.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from probes.claims import lexicon
from probes.claims.chunks import Chunk
from probes.claims.lexicon import WORDS


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
            self.of("subject", "region", "window", "misread", "remove", "steady", "move", "rely", "hurt", "harmless")
            or self.of("order", "learn", "once")
        )

    @property
    def has_predicate(self) -> bool:
        """Whether what is said of a subject is there; a comparison needs its second subject, a removal its effect."""
        if self.of("remove"):
            return bool(self.of("hurt", "harmless"))
        if self.of("compare", "than"):
            return len(self.of("subject")) + len(runs(self, self.of("unknown"))) >= 2 or bool(self.of("misread"))
        if self.of("learn") and self.of("subject", "unknown") and {"has", "have", "had", "already", "now"} & self.words:
            return True
        return bool(self.of("region", "window", "misread", "steady", "move", "rely", "order"))

    @property
    def words(self) -> set[str]:
        return {word for chunk in self.chunks for word in chunk.text.split()}

    @property
    def is_complete(self) -> bool:
        return self.has_predicate and bool(self.of("subject", "pronoun", "unknown"))


def runs(clause: Clause, unknown: Sequence[Chunk]) -> list[list[Chunk]]:
    """Unknown words that stand together ("sense of humour"), as they would name one subject."""
    found: list[list[Chunk]] = []
    for chunk in unknown:
        between = [c.text for c in clause.chunks if found and found[-1][-1].end <= c.start < chunk.start]
        if found and len(between) <= 2 and all(text in ("of", "the", "a", "in", "for") for text in between):
            found[-1].append(chunk)
        else:
            found.append([chunk])
    return found


@dataclass
class Group:
    """Clauses up to the next "but" or ";"."""

    chunks: list[Chunk] = field(default_factory=list)
    opener: str = ""
    aside: str = ""


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
        elif chunk.kind == "cut" and _restricts(group.chunks, at):
            end = _next_boundary(group.chunks, at)
            text = " ".join(other.text for other in group.chunks[at:end])
            found[-1].chunks.append(Chunk("misread", text, chunk.start, group.chunks[end - 1].end))
            dropping = True
        elif chunk.kind == "cut" and chunk.text != "which":
            dropping = True
        elif chunk.kind == "cut":
            dropping = bool(found[-1].chunks)
        elif not dropping:
            found[-1].chunks.append(chunk)
    return found


def _next_boundary(row: Sequence[Chunk], at: int) -> int:
    return next((n for n in range(at, len(row)) if row[n].kind == "boundary"), len(row))


def _restricts(row: Sequence[Chunk], at: int) -> bool:
    """Whether "since", "as" or "except" says when or where a claim holds, and no mere reason that may be left out."""
    end = _next_boundary(row, at)
    held, rest = Clause([*row[:at], *row[end:]]), Clause(list(row[at + 1 : end]))
    after_pause = at > 0 and row[at - 1].kind == "boundary"
    lasts = bool(held.of("move", "steady", "learn"))
    if row[at].text == "as" and rest.words & {"as"}:
        return True  # "as stable as number"
    if row[at].text == "as":
        return lasts and not after_pause and not rest.of("instrument")
    if row[at].text == "since":
        verb = rest.of("locate", "rely", "learn", "steady", "move", "hurt", "harmless")
        tells = bool(verb or rest.words & WORDS["auxiliary"])
        return not tells or (not after_pause and (lasts or bool(held.words & {"has", "have", "had", "been"})))
    return row[at].text == "except"


def reasons(group: Group) -> Iterator[tuple[int, int]]:
    """Spans (of tokens) of what `cut` leaves out though it says something of a subject: "because meaning needs them"."""
    for at, chunk in enumerate(group.chunks):
        end = _next_boundary(group.chunks, at)
        rest = Clause(list(group.chunks[at + 1 : end]))
        if chunk.kind == "cut" and rest.of("subject") and rest.has_predicate and not _restricts(group.chunks, at):
            yield chunk.start, group.chunks[end - 1].end


def _joins_subjects(row: Sequence[Chunk], at: int) -> bool:
    if row[at].text not in ("and", "or", "nor", "&", "/", "+"):
        return False
    before = next((chunk.kind for chunk in reversed(row[:at]) if chunk.kind not in ("filler", "not")), "")
    after = next((chunk.kind for chunk in row[at + 1 :] if chunk.kind not in ("filler", "not")), "")
    return before == after == "subject"


def join(clauses: Sequence[Clause]) -> list[Clause]:
    """Clauses that each say something of something; halves of one statement joined, bare remarks left out."""
    found: list[Clause] = []
    for clause in map(_unread_adverbial, clauses):
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


def _unread_adverbial(clause: Clause) -> Clause:
    """ "After the restart, | tense drifted": what no table knows about when or where is unread, and not left out."""
    told = [chunk.kind for chunk in clause.chunks if chunk.kind != "filler"]
    lead = [chunk.text for chunk in itertools.takewhile(lambda chunk: chunk.kind == "filler", clause.chunks)]
    plain = WORDS["adverbial"].isdisjoint([*lead, *(chunk.text for chunk in clause.chunks[len(lead) : len(lead) + 1])])
    if not told or plain or not clause.of("unknown"):
        return clause
    if set(told) - {"unknown", "compare", "order", "locate", "not"} or clause.words & WORDS["auxiliary"]:
        return clause
    first, last = clause.chunks[0], clause.chunks[-1]
    text = " ".join(chunk.text for chunk in clause.chunks)
    return Clause([Chunk("misread", text, first.start, last.end)], clause.opener)


def _has_its_kind(last: Clause, place: Clause) -> bool:
    return any(last.of(kind) for kind in ("region", "window") if place.of(kind))

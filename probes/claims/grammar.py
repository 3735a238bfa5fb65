"""Journal text → claims: what is asserted about the layers, in a form that a measurement can support or refute.

A grammar over small tables (`vocabulary`, `places`, `lexicon`), read top to bottom: sentences → phrases → clauses →
statements → claims. Deterministic, no model. It does not guess: a statement with a word that it does not know is
UNPARSED, a subject without labels is UNTESTABLE and names the missing task; questions, reports of others' words,
conditionals, wishes, orders and predictions are no claims at all and are listed apart by `set_aside`.

What polarity "positive" affirms, by kind (a negated sentence has "negative"):

- depth_order: `a` is reached at less depth than `b`; with relation "same", at the same depth;
- band: `a` is in `where`, mostly;
- emergence: `a` came up within `when`; with `b`, before `b` in training;
- stability: `a` stays as it is over `when`; `relation` says how it would move (flicker, shift, fade, grow);
- causal: erasing `a` (at `where`) costs something; with `b`, it costs `b`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from probes.claims.chunks import chunks
from probes.claims.clauses import Clause, Group, cut, groups, join, reasons
from probes.claims.contrasts import contrast
from probes.claims.sentences import LONGEST_SENTENCE, Sentence, sentences
from probes.claims.statements import Statement, Unread, statements
from probes.claims.vocabulary import Subject
from probes.layers.labels import LABELS

PARSED, UNPARSED, UNTESTABLE = "PARSED", "UNPARSED", "UNTESTABLE"


@dataclass(frozen=True)
class Claim:
    """A reading of one statement of a journal entry.

    Attributes:
        id: of entry, words and reading; the same whatever the spacing.
        text, start, end: `text` is `entry_text[start:end]`.
        status: PARSED, UNPARSED or UNTESTABLE; `reason` says why it is not PARSED, `missing` names the tasks that lack.
        a, b: canonical names of `vocabulary.SUBJECTS`, or the words themselves where there is no such subject.
        reading: decode, decide or use; None = the default of the verdict.
        where, when: `Region.to_json` and `Window.to_json`; None where the sentence names none.
        hedges: "I think", "perhaps", … as written, in lower case.
    """

    id: str
    entry: str
    text: str
    start: int
    end: int
    status: str
    kind: str | None = None
    a: str | None = None
    b: str | None = None
    polarity: str = "positive"
    relation: str | None = None
    reading: str | None = None
    scope: str = "artefact"
    where: dict[str, Any] | None = None
    when: dict[str, Any] | None = None
    hedges: tuple[str, ...] = ()
    reason: str | None = None
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "hedges": list(self.hedges), "missing": list(self.missing)}


@dataclass(frozen=True)
class Aside:
    """Text that mentions layers or concepts but claims nothing, and why."""

    text: str
    start: int
    end: int
    why: str


def parse(text: str, entry: str | int = "", labels: Collection[str] = LABELS) -> list[Claim]:
    """The claims of a journal entry, in the order of the text.

    Args:
        text: the entry as written; Markdown is read past, quotations and code are not the writer's claims.
        entry: the entry's key, kept in every claim.
        labels: the label tasks that exist; a subject of any other family makes its claim UNTESTABLE.

    >>> [c.kind for c in parse("Function words at lower layers, semantic concepts at higher layers.")]
    ['depth_order']
    """
    return [item for item in _read(text, str(entry), labels) if isinstance(item, Claim)]


def set_aside(text: str) -> list[Aside]:
    """Statements about layers or concepts that are no claims: question, report, conditional, wish, order, prediction …"""
    return [item for item in _read(text, "", LABELS) if isinstance(item, Aside)]


def _read(text: str, entry: str, labels: Collection[str]) -> Iterator[Claim | Aside]:
    seen: dict[str, int] = {}
    for sentence in sentences(text):
        if len(sentence.tokens) > LONGEST_SENTENCE:
            continue
        for item in _read_sentence(text, entry, sentence, labels):
            if isinstance(item, Claim):
                seen[item.id] = seen.get(item.id, 0) + 1
                yield replace(item, id=f"{item.id}-{seen[item.id]}") if seen[item.id] > 1 else item
            else:
                yield item


def _read_sentence(text: str, entry: str, sentence: Sentence, labels: Collection[str]) -> Iterator[Claim | Aside]:
    row = list(chunks(sentence.tokens))
    kinds = {chunk.kind for chunk in row}
    if not kinds & {"subject", "region", "window", "rely", "remove", "move", "steady"} and not kinds >= {
        "compare",
        "than",
    }:
        return
    scope = "recipe" if any(chunk.kind == "scope" for chunk in row) else "artefact"
    hedges = tuple(
        c.text for c in row if c.kind == "hedge" or (c.kind == "not_all" and c.text.split()[0] in ("i", "we"))
    )
    before: tuple[Subject, ...] = ()  # what "it" can mean
    stated: list[Statement | Unread] = []
    for group in groups(row, sentence.asks):
        subjects = tuple(c.value for c in group.chunks if isinstance(c.value, Subject))
        why = "quotation" if sentence.quotes else group.aside
        if why:
            if group.chunks:
                start, end = _span(sentence, group.chunks[0].start, group.chunks[-1].end)
                yield Aside(text[start:end], start, end, why)
        else:
            stated += _statements(group, before)
            for first, last in reasons(group):
                start, end = _span(sentence, first, last)
                yield Aside(text[start:end], start, end, "reason")
        before = subjects[-1:] or before
    for found in contrast(stated):
        start, end = _span(sentence, found.start, found.end)
        yield _claim(text, entry, start, end, found, scope, hedges, labels)


def _span(sentence: Sentence, first: int, end: int) -> tuple[int, int]:
    return sentence.tokens[first].start, sentence.tokens[end - 1].end


def _statements(group: Group, before: tuple[Subject, ...]) -> list[Statement | Unread]:
    denials = [chunk.start for chunk in group.chunks if chunk.kind == "not_all"]
    found: list[Statement | Unread] = []
    for clause in join(cut(group)):
        found += statements(clause, before)
        before = _last_subject(clause) or before
    if len(denials) % 2 == 0:
        return found
    says_more = any(chunk.start > denials[0] and chunk.kind != "filler" for chunk in group.chunks)
    first = denials[0] if says_more else 0  # "…, and adverbs I do not see" denies what comes after, "…, I doubt" all
    kept = [item for item in found if item.end <= first]
    denied = contrast([item for item in found if item.end > first])
    return kept + [item.denied() if isinstance(item, Statement) else item for item in denied]


def _last_subject(clause: Clause) -> tuple[Subject, ...]:
    return tuple(c.value for c in clause.chunks if isinstance(c.value, Subject))[:1]


def _claim(
    text: str,
    entry: str,
    start: int,
    end: int,
    found: Statement | Unread,
    scope: str,
    hedges: tuple[str, ...],
    labels: Collection[str],
) -> Claim:
    words = text[start:end]
    if isinstance(found, Unread):
        return Claim(
            _id(entry, words), entry, words, start, end, UNPARSED, hedges=hedges, scope=scope, reason=found.reason
        )
    subjects = [found.a] if found.b is None else [found.a, found.b]
    lacking = tuple(subject for subject in subjects if not subject.tasks(labels))
    families = sorted({label.split(".")[0] for label in labels})
    reason = "; ".join(f"no label task {s.family!r} for {s.name!r}" for s in lacking)
    return Claim(
        id=_id(
            entry, words, found.kind, found.a.name, found.b.name if found.b else "", str(found.where), str(found.when)
        ),
        entry=entry,
        text=words,
        start=start,
        end=end,
        status=UNTESTABLE if lacking else PARSED,
        kind=found.kind,
        a=found.a.name,
        b=found.b.name if found.b else None,
        polarity="positive" if found.positive else "negative",
        relation=found.relation,
        reading=found.reading,
        scope=scope,
        where=found.where.to_json() if found.where else None,
        when=found.when.to_json() if found.when else None,
        hedges=hedges,
        reason=f"{reason}. Tasks are: {', '.join(families)}." if lacking else None,
        missing=tuple(dict.fromkeys(subject.family for subject in lacking)),
    )


def _id(entry: str, words: str, *reading: str) -> str:
    parts = (entry, " ".join(words.split()).lower(), *reading)
    return hashlib.sha256("\x1f".join(parts).encode("utf8", "replace")).hexdigest()[:16]

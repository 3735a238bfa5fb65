"""Recurring motifs: turns of phrase that come back in self-play and journals far more often than in the training text.

A motif is a template: 3 to 5 words in a row, one of the inner ones open ("the _ of the night"), or all of them fixed. It
recurs when 5 documents or more hold it and its log-odds against the training text have z of 4.5 or more (`log_odds`). A
document counts once, however often it repeats itself: a loop is not a motif. Training text is cut into pieces as long as the
documents first, or its longer ones would hold more templates each. How texts begin is special ("how are you"), and what a
model writes always begins: z is the lesser of that against all pieces and that against first pieces alone. Without the
latter, 1,000 conversations of people's had more than 50 motifs against 3,000 others of the same corpus.

Far more often than in the training text does not mean far more than at the start: `seen` and `fades` say when.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from lab.errors import LabError
from lab.ngrams import Words
from probes.behaviour.log_odds import DOCUMENTS, Odds, Z, of_counts
from probes.behaviour.rates import Rate, difference, wilson
from probes.layers.evidence import Interval

SIZES = (3, 4, 5)  # words, the open one included
OPEN = "_"
ALIKE = 0.8  # Jaccard of two templates' documents: then one of them is told
FILLERS = 5  # words in the open place that are named

Template = tuple[str, ...]
Source = Literal["self-play", "journal"]


class NothingToCompare(LabError):
    """No words were written, or there is no training text."""


@dataclass(frozen=True)
class Document:
    """What the model wrote in one conversation or entry: its own words alone, never the topic or prompt that it was given."""

    step: int
    source: Source
    name: str
    text: str


@dataclass(frozen=True)
class Seen:
    """Where a motif was: its first and last document, and how many documents, steps and sources."""

    first_step: int
    first_name: str
    last_step: int
    documents: Rate
    steps: int
    by_source: dict[str, Rate]


@dataclass(frozen=True)
class Motif:
    """A recurring template.

    Attributes:
        fillers: the most frequent words in the open place, with the documents that have them; empty without one.
        odds: against the training text, the lesser of the two.
        training: share of its pieces that hold it.
        given: a prompt or topic holds it: the model may only be repeating that.
        fades: change of the share of documents from the first half of the steps since it was first seen to the second; None
            where either half is empty.
        variants: templates of nearly the same documents, left out.
    """

    template: str
    fillers: tuple[tuple[str, int], ...]
    odds: Odds
    training: Rate
    seen: Seen
    given: bool
    fades: Interval | None
    variants: tuple[str, ...]

    @property
    def text(self) -> str:
        said = f"a template of {len(self.template.split())} words is in {self.seen.documents} documents, "
        said += f"at {self.seen.steps} steps from {self.seen.first_step} to {self.seen.last_step}; "
        said += f"in training text {self.training}; z = {self.odds.z:.1f}"
        return said + ("; a prompt holds it" if self.given else "")


def motifs(
    documents: Sequence[Document], training: Iterable[str], prompts: Sequence[str] = (), most: int = 50
) -> tuple[Motif, ...]:
    """The recurring templates, the surest first.

    Args:
        training: texts of the training corpus, or a sample of them: a million words take some ten seconds.
        prompts: everything that the model was given in those documents.
        most: how many to return.

    Raises:
        NothingToCompare: no words on either side.
    """
    words = [Words.split(document.text) for document in documents]
    often, total = _recurring(words)
    if not total:
        raise NothingToCompare("no document has three words. Let the model talk first: self_play.every, journal.every.")
    lengths = sorted(len(own) for own in words if len(own) >= SIZES[0])
    pieces, first_pieces = _count(training, often, lengths[len(lengths) // 2])
    odds = {
        template: min(
            (part.odds(template, len(numbers), total) for part in (pieces, first_pieces)), key=lambda one: one.z
        )
        for template, numbers in often.items()
    }
    sure = sorted((one for one in often if odds[one].z >= Z), key=lambda one: (-odds[one].z, -len(one), one))
    given = {template for prompt in prompts for template in templates(Words.split(prompt))}
    return tuple(
        _motif(
            template,
            variants,
            documents,
            words,
            often[template],
            odds[template],
            pieces.rate(template),
            given,
        )
        for template, variants in _without_variants(sure, often)[:most]
    )


def templates(words: Sequence[str]) -> Iterator[Template]:
    """Runs of 3 to 5 words, as they are and with each inner word open; one word alone is no context, so outer ones stay."""
    for size in SIZES:
        for start in range(len(words) - size + 1):
            run = tuple(words[start : start + size])
            yield run
            for place in range(1, size - 1):
                yield (*run[:place], OPEN, *run[place + 1 :])


def _recurring(words: Sequence[Sequence[str]]) -> tuple[dict[Template, set[int]], int]:
    """Templates of 5 documents or more, with the documents, and (document, template) pairs in all.

    Nearly all templates are of one document, and 1,000 conversations have two million: those are told apart by hash first.
    """
    hashes = [np.array([hash(template) for template in set(templates(own))], dtype=np.int64) for own in words]
    seen, counts = np.unique(np.concatenate([*hashes, np.zeros(0, np.int64)]), return_counts=True)
    often = set(seen[counts >= DOCUMENTS].tolist())
    held: dict[Template, set[int]] = defaultdict(set)
    for number, own in enumerate(words):
        for template in templates(own):
            if hash(template) in often:
                held[template].add(number)
    recurring = {template: numbers for template, numbers in held.items() if len(numbers) >= DOCUMENTS}
    return recurring, sum(len(own) for own in hashes)


@dataclass
class _Pieces:
    """Pieces of training text, those that hold each template asked about, and (piece, template) pairs in all."""

    held: Counter[Template]
    pieces: int = 0
    total: int = 0

    def add(self, here: set[Template], wanted: Collection[Template]) -> None:
        self.held.update(template for template in here if template in wanted)
        self.pieces, self.total = self.pieces + 1, self.total + len(here)

    def odds(self, template: Template, count: int, total: int) -> Odds:
        return of_counts(count, total, self.held[template], self.total)

    def rate(self, template: Template) -> Rate:
        return wilson(self.held[template], self.pieces)


def _count(texts: Iterable[str], wanted: Collection[Template], length: int) -> tuple[_Pieces, _Pieces]:
    """All pieces, and those that texts begin with."""
    every, first = _Pieces(Counter()), _Pieces(Counter())
    for text in texts:
        words = Words.split(text)
        for start in range(0, len(words), length):
            here = set(templates(words[start : start + length]))
            for part in (every, first) if start == 0 else (every,):
                part.add(here, wanted)
    if not every.total:
        raise NothingToCompare("the training text has no three words in a row. Give the texts the run was trained on.")
    return every, first


def _without_variants(
    sure: Sequence[Template], held: dict[Template, set[int]]
) -> list[tuple[Template, tuple[Template, ...]]]:
    """Of templates that share words and nearly all documents the one with most fixed words, each with the others."""
    groups: list[list[Template]] = []
    for template in sure:
        for group in groups:
            own, other = held[template], held[group[0]]
            related = any(set(template) & set(one) - {OPEN} for one in group)
            if related and len(own & other) >= ALIKE * len(own | other):
                group.append(template)
                break
        else:
            groups.append([template])
    chosen = [max(group, key=lambda one: len(one) - one.count(OPEN)) for group in groups]  # of equals the surest
    return [(one, tuple(other for other in group if other != one)) for one, group in zip(chosen, groups, strict=True)]


def _motif(
    template: Template,
    variants: Sequence[Template],
    documents: Sequence[Document],
    words: Sequence[Sequence[str]],
    held: set[int],
    odds: Odds,
    training: Rate,
    given: set[Template],
) -> Motif:
    return Motif(
        " ".join(template),
        _fillers(template, [words[number] for number in sorted(held)]),
        odds,
        training,
        _seen(documents, held),
        any(one in given for one in (template, *variants)),
        _fades(documents, held),
        tuple(" ".join(one) for one in variants),
    )


def _fillers(template: Template, words: Sequence[Sequence[str]]) -> tuple[tuple[str, int], ...]:
    if OPEN not in template:
        return ()
    place, size = template.index(OPEN), len(template)
    counts: Counter[str] = Counter()
    for own in words:
        runs = (own[start : start + size] for start in range(len(own) - size + 1))
        counts.update({run[place] for run in runs if (*run[:place], OPEN, *run[place + 1 :]) == template})
    return tuple(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:FILLERS])


def _seen(documents: Sequence[Document], held: set[int]) -> Seen:
    holding = sorted((documents[number] for number in held), key=lambda one: one.step)
    all_of, of = Counter(one.source for one in documents), Counter(one.source for one in holding)
    return Seen(
        holding[0].step,
        holding[0].name,
        holding[-1].step,
        wilson(len(holding), len(documents)),
        len({one.step for one in holding}),
        {source: wilson(of[source], count) for source, count in sorted(all_of.items())},
    )


def _fades(documents: Sequence[Document], held: set[int]) -> Interval | None:
    """Later less earlier share, of the documents after the first that holds it, which was chosen for holding it."""
    order = sorted(range(len(documents)), key=lambda number: documents[number].step)
    since = order[next(at for at, number in enumerate(order) if number in held) + 1 :]
    steps = sorted({documents[number].step for number in since})
    if len(steps) < 2:
        return None
    middle = steps[len(steps) // 2]
    halves = [[number for number in since if (documents[number].step < middle) == early] for early in (True, False)]
    early_rate, late_rate = (wilson(sum(number in held for number in half), len(half)) for half in halves)
    return difference(early_rate, late_rate)

"""Who may see which text: exploration and confirmation halves, and what of a set the training text already holds.

Both by hash of the text, so neither depends on the order in which documents are listed nor on what else is there.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lab.ngrams import Words
from probes.layers.annotated import document_name
from probes.layers.probe_set import BadProbeSet, ProbeSet, restrict

IN_TRAINING = "sentences that training text holds"
_PREFIX = 4  # words looked up per position of the training text; no probe sentence is shorter than 5


def split(documents: Sequence[str], seed: int = 0) -> tuple[list[str], list[str]]:
    """(exploration, confirmation): about half of the documents each, in the order given.

    Which side a document falls on depends on it and the seed alone, so adding documents moves none. Exploration text is
    for whatever is fitted or chosen (lenses, penalties, a journal writer's prompts); confirmation text only decides.

    Args:
        documents: texts, or names of documents (`GoldText.documents`).

    Raises:
        BadProbeSet: one side is empty.
    """
    sides: tuple[list[str], list[str]] = ([], [])
    for document in documents:
        mark = hashlib.sha256(f"split {seed}\n{document}".encode("utf-8", "surrogatepass")).digest()
        sides[mark[0] & 1].append(document)
    if not all(sides):
        raise BadProbeSet(
            f"{len(set(documents))} documents cannot be split into exploration and confirmation: all fall on one side. "
            "Give more documents (8 or more, to be sure), or another seed."
        )
    return sides


def sentence_key(text: str) -> str:
    """sha256 of a sentence's words: equal for equal sentences, whatever their case, spacing and punctuation."""
    return hashlib.sha256(" ".join(Words.split(text)).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Overlap:
    """What training text holds.

    Attributes:
        sentences: numbers of the sentences whose words occur there in a row.
        documents: names of the documents that occur there whole.
        read: training documents looked at; 0 means that nothing was checked.
    """

    sentences: frozenset[int]
    documents: frozenset[str]
    read: int


def in_training(sentences: Sequence[str], training: Iterable[str], documents: Sequence[str] = ()) -> Overlap:
    """Find sentences and documents in training text, reading it once and keeping none of it.

    A document is found by the sha256 of its text. A sentence is found wherever its words stand in a row: training text is
    not cut into sentences, so a line break or a missing full stop hides nothing; case, spaces and punctuation do not count.

    Args:
        training: raw text of every training document, or decoded token shards.
        documents: names (`ProbeSet.documents`) to look for.

    Raises:
        BadProbeSet: a sentence without a word, which no text could be searched for.
    """
    wanted: defaultdict[tuple[str, ...], list[tuple[int, list[str]]]] = defaultdict(list)
    short: list[tuple[int, list[str]]] = []
    for number, text in enumerate(sentences):
        words = Words.split(text)
        if not words:
            raise BadProbeSet(f"sentence {number} ({text[:40]!r}) has no word to look for. Leave it out.")
        (short if len(words) < _PREFIX else wanted[tuple(words[:_PREFIX])]).append((number, words))
    names = set(documents)
    found: set[int] = set()
    whole: set[str] = set()
    read = 0
    for document in training:
        read += 1
        if names and (name := document_name(document)) in names:
            whole.add(name)
        stream = Words.split(document)
        if short:
            _find_short(stream, short, found)
        for at, prefix in enumerate(zip(*(stream[shift:] for shift in range(_PREFIX)), strict=False)):
            for number, words in wanted.get(prefix, ()):
                if stream[at : at + len(words)] == words:
                    found.add(number)
    return Overlap(frozenset(found), frozenset(whole), read)


def unseen(probe_set: ProbeSet, training: Iterable[str]) -> ProbeSet:
    """The set without sentences that training text holds, itself or with their document; counted in `dropped`.

    Raises:
        BadProbeSet: there is no training text (an iterator that was read before is empty), so nothing would be checked.
    """
    overlap = in_training(probe_set.sentences, training, probe_set.documents)
    if not overlap.read:
        raise BadProbeSet("probe set: no training document to compare with. Give the training text, once and unread.")
    keep = [
        number
        for number, document in enumerate(probe_set.documents)
        if number not in overlap.sentences and document not in overlap.documents
    ]
    return restrict(probe_set, keep, IN_TRAINING)


def _find_short(stream: list[str], short: Sequence[tuple[int, list[str]]], found: set[int]) -> None:
    text = " " + " ".join(stream) + " "
    found.update(number for number, words in short if f" {' '.join(words)} " in text)

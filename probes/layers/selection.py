"""Which sentences make a probe set: an order that depends on seed and text alone, never on how the text was listed."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from itertools import zip_longest

from probes.layers.annotated import Sentence, labelled_forms
from probes.layers.lexicons import supersense
from probes.layers.splits import sentence_key
from probes.layers.text import WORD

WORDS_PER_SENTENCE = (5, 24)  # shorter ones carry no context; longer ones cost a visit more than they tell it
PER_DOCUMENT = 400  # candidate sentences kept from one document, so that one long book is not the whole set
_POOL = 25  # candidates wanted per sentence of a set; more documents are not read once there are that many

ORDERS = {
    False: "hash order, sentences with two supersense words first",
    True: "round robin over documents in hash order; within one, hash order, sentences with two supersense words first",
}

Candidate = tuple[int, str, str, Sentence]  # rank, hash, text: what sorts; then the sentence


def select(
    documents: Iterable[tuple[str, Iterable[Sentence]]],
    sentences: int,
    seed: int,
    per_document: int,
    spread: bool,
    avoid: Collection[str],
    dropped: Counter[str],
) -> list[Sentence]:
    """At most `sentences` of them; sentences equal up to case, spaces and punctuation are taken once.

    Sentences with two or more supersense words go first: only one word in twenty-five has a single supersense, and a plain
    draw of 400 sentences would leave a few hundred labels for some twenty classes.

    Args:
        documents: name and sentences of each, in the order of `document_order`.
        per_document: candidates kept from one document.
        spread: take one sentence of every document before the second of any: as many documents as there can be.
        avoid: keys (`splits.sentence_key`) of sentences that are not to be taken; they are counted.
    """
    seen: set[str] = set()
    by_document: list[list[Candidate]] = []
    count = 0
    for _, document in documents:
        own = sorted(_candidates(document, seed, seen, avoid, dropped), key=lambda one: one[:3])[:per_document]
        by_document.append(own)
        count += len(own)
        if not spread and count >= _POOL * sentences:
            break
    if spread:
        order = [one for turn in zip_longest(*by_document) for one in turn if one is not None]
    else:
        order = sorted((one for own in by_document for one in own), key=lambda one: (*one[:3], one[3].document))
    return [sentence for *_, sentence in order[:sentences]]


def document_order(texts: Collection[str], seed: int) -> list[str]:
    """Each text once, in the order of a hash of (seed, text)."""
    return [text for _, text in sorted((digest(seed, text), text) for text in set(texts))]


def digest(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def _candidates(
    document: Iterable[Sentence], seed: int, seen: set[str], avoid: Collection[str], dropped: Counter[str]
) -> Iterator[Candidate]:
    low, high = WORDS_PER_SENTENCE
    for sentence in document:
        words = list(labelled_forms(sentence))
        if not low <= len(words) <= high:
            dropped["sentences too short or too long"] += 1
            continue
        key = " ".join(WORD.findall(sentence.text.lower()))
        if key in seen:
            dropped["duplicate sentences"] += 1
            continue
        seen.add(key)
        if avoid and sentence_key(sentence.text) in avoid:
            dropped["sentences to be avoided"] += 1
            continue
        rank = -min(2, sum(supersense(word) is not None for word in words))
        yield rank, digest(seed, sentence.text), sentence.text, sentence

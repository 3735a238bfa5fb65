"""A fixed set of sentences with labelled words: what every layer of every checkpoint is asked about.

From raw validation text to tokens, positions and labels. Nothing here touches a model; `collect` reads activations at
these positions, `fit` probes them. The set is plain data (`to_dict`, `from_dict`); whoever owns the run writes it.

Conventions, the same in every artefact:

- a sentence is its own sequence, starting with the beginning-of-text token, cut to the model's context;
- a label sits at the position of its word's last sub-token (position 0, the beginning-of-text token, has none);
- `*.current` labels that word; `*.next` labels the word holding the *next token* of the text, which is what the model
  has to predict there. Where the next token is punctuation, a number or a clitic there is no `*.next` label;
- labels come from deterministic rules: a closed list of function words (`words`) and WordNet's supersense of words that
  have exactly one (`supersenses.tsv.gz`, derived by scripts/derive_supersenses.py). No label is guessed from context.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from lab.errors import LabError
from probes.layers.text import WORD, find_words, split_sentences, written_form
from probes.layers.words import FUNCTION_WORDS, UNCLASSED_WORDS

LABELS = ("class.current", "class.next", "supersense.current", "supersense.next")
NO_LABEL = -1
WORDS_PER_SENTENCE = (5, 24)  # shorter ones carry no context; longer ones cost a visit more than they tell it
_PER_DOCUMENT = 400  # candidate sentences kept from one document, so that one long book is not the whole set
_POOL = 25  # candidates wanted per sentence of the set; more documents are not read once there are that many


class BadProbeSet(LabError):
    """A probe set that cannot be built from the text at hand, or a stored one that does not hold together."""


class EncodesWithOffsets(Protocol):
    """The part of a tokenizer that is needed: `lab.tokenizer.Tokenizer`, or any wrapper with these names."""

    @property
    def bos(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...


@dataclass(frozen=True)
class ProbeSet:
    """Sentences, their tokens, and labelled words in order of (sentence, position).

    Attributes:
        sentences: raw text; the unit of folds and of the bootstrap.
        documents: per sentence, the sha256 (16 hex digits) of the document it was taken from.
        tokens: per sentence, token ids, beginning-of-text first.
        word_sentence, word_position: per word, its sentence and the position of its last sub-token (≥ 1).
        labels: per name in `LABELS`, a class index per word, `NO_LABEL` where there is none.
        classes: per name in `LABELS`, the class names that the indices mean.
        dropped: how many words or sentences were left out, by reason.
        origin: what it was made with: tokenizer sha256, seed, n_ctx.
    """

    sentences: tuple[str, ...]
    documents: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    word_sentence: tuple[int, ...]
    word_position: tuple[int, ...]
    labels: Mapping[str, tuple[int, ...]]
    classes: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, int] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> int:
        return len(self.word_sentence)

    @property
    def sha256(self) -> str:
        """Over everything that a probe sees (text, tokens, positions, labels), not over the counts of what was dropped."""
        content: list[Any] = [self.sentences, self.tokens, self.word_sentence, self.word_position]
        content += [[name, self.classes[name], self.labels[name]] for name in sorted(self.labels)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def build(
    documents: Sequence[str], tokenizer: EncodesWithOffsets, sentences: int, n_ctx: int, seed: int = 0
) -> ProbeSet:
    """Choose and label the probe set of a run; the same arguments give the same set on any machine.

    Sentences are taken in the order of a hash of (seed, text), those with two or more supersense words first: only one
    word in twenty-five has a single supersense, and a plain draw of 400 sentences would leave a few hundred labels for
    some twenty classes. Both label families then live on the same sentences, which part of the choice is stated in
    `origin`. Sentences equal up to case, spaces and punctuation are taken once.

    Args:
        documents: raw validation text that no training shard holds.
        sentences: how many to choose; fewer are returned if the text has fewer.
        n_ctx: the model's context; sentences are cut to it, words beyond it are dropped and counted.

    Raises:
        BadProbeSet: fewer than 10 sentences could be found.
    """
    dropped: Counter[str] = Counter()
    candidates = _candidates(documents, sentences, seed, dropped)
    chosen = [(text, document) for _, _, text, document in sorted(candidates)[:sentences]]
    if len(chosen) < min(10, sentences):
        low, high = WORDS_PER_SENTENCE
        raise BadProbeSet(
            f"probing: the validation text has {len(chosen)} usable sentences ({low} to {high} words), too few to probe. "
            "Add text, raise data.validation_share, or switch probing off with probing.every = 0."
        )
    tokens: list[tuple[int, ...]] = []
    word_sentence: list[int] = []
    word_position: list[int] = []
    names: dict[str, list[str | None]] = {label: [] for label in LABELS}
    for index, (text, _) in enumerate(chosen):
        ids, spans = tokenizer.encode_with_offsets(text)
        tokens.append((tokenizer.bos, *ids[: n_ctx - 1]))
        for last, word, following in _aligned(text, spans, dropped):
            if last + 1 >= n_ctx:
                dropped["words beyond the context"] += 1
                continue
            word_sentence.append(index)
            word_position.append(last + 1)
            names["class.current"].append(word_class(word))
            names["class.next"].append(following and word_class(following))
            names["supersense.current"].append(supersense(word))
            names["supersense.next"].append(following and supersense(following))
    classes = {
        label: tuple(sorted({name for other in _same_family(label) for name in names[other] if name is not None}))
        for label in LABELS
    }
    index_of = {label: {name: i for i, name in enumerate(classes[label])} for label in LABELS}
    return ProbeSet(
        sentences=tuple(text for text, _ in chosen),
        documents=tuple(document for _, document in chosen),
        tokens=tuple(tokens),
        word_sentence=tuple(word_sentence),
        word_position=tuple(word_position),
        labels={
            label: tuple(NO_LABEL if name is None else index_of[label][name] for name in names[label])
            for label in LABELS
        },
        classes=classes,
        dropped=dict(sorted(dropped.items())),
        origin={
            "tokenizer": tokenizer.sha256,
            "n_ctx": n_ctx,
            "seed": seed,
            "selection": "hash order, sentences with two supersense words first",
            "layers": "0 = blocks.0.hook_resid_pre, l = blocks.{l-1}.hook_resid_post",
        },
    )


def word_class(word: str) -> str | None:
    """ "function", "content", or None for interjections and spelled numbers, which are neither.

    >>> word_class("The"), word_class("don’t"), word_class("teacher"), word_class("wow")
    ('function', 'function', 'content', None)
    """
    form = written_form(word)
    if form in UNCLASSED_WORDS:
        return None
    return "function" if form in FUNCTION_WORDS else "content"


def supersense(word: str) -> str | None:
    """WordNet's supersense of a written form if all its readings share one, else None.

    >>> supersense("farmers"), supersense("table"), supersense("in")
    ('noun.person', None, None)
    """
    return _supersenses().get(written_form(word))


def to_dict(probe_set: ProbeSet) -> dict[str, Any]:
    """The set as JSON-able data, with its hash."""
    return {
        "version": 1,
        "sha256": probe_set.sha256,
        "origin": dict(probe_set.origin),
        "dropped": dict(probe_set.dropped),
        "sentences": list(probe_set.sentences),
        "documents": list(probe_set.documents),
        "tokens": [list(ids) for ids in probe_set.tokens],
        "word_sentence": list(probe_set.word_sentence),
        "word_position": list(probe_set.word_position),
        "classes": {name: list(values) for name, values in probe_set.classes.items()},
        "labels": {name: list(values) for name, values in probe_set.labels.items()},
    }


def from_dict(data: Mapping[str, Any]) -> ProbeSet:
    """Read a stored set back, refusing one that does not hold together.

    Raises:
        BadProbeSet: a field is missing, a position lies outside its sentence, labels and words differ in number, a class
            index has no name, or the content is not what its hash says.
    """
    try:
        result = ProbeSet(
            sentences=tuple(str(text) for text in data["sentences"]),
            documents=tuple(str(name) for name in data["documents"]),
            tokens=tuple(tuple(int(i) for i in ids) for ids in data["tokens"]),
            word_sentence=tuple(int(i) for i in data["word_sentence"]),
            word_position=tuple(int(i) for i in data["word_position"]),
            labels={str(name): tuple(int(i) for i in values) for name, values in data["labels"].items()},
            classes={str(name): tuple(str(v) for v in values) for name, values in data["classes"].items()},
            dropped=dict(data.get("dropped", {})),
            origin=dict(data.get("origin", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadProbeSet(
            f"probe set: not in the stored form ({type(error).__name__}: {error}). Delete it to build it anew."
        ) from None
    check(result)
    if "sha256" in data and data["sha256"] != result.sha256:
        raise BadProbeSet(
            "probe set: its content is not what its sha256 says, so it was edited. Delete it to build it anew; "
            "readings before and after are then not comparable."
        )
    return result


def check(probe_set: ProbeSet) -> None:
    """Refuse a set whose parts do not fit each other.

    Raises:
        BadProbeSet: naming the part.
    """
    remedy = "Delete it to build it anew."
    sentences = len(probe_set.sentences)
    if len(probe_set.tokens) != sentences or len(probe_set.documents) != sentences:
        raise BadProbeSet(f"probe set: {sentences} sentences but {len(probe_set.tokens)} token rows. {remedy}")
    if len(probe_set.word_position) != probe_set.words:
        raise BadProbeSet(f"probe set: {probe_set.words} words but {len(probe_set.word_position)} positions. {remedy}")
    for sentence, position in zip(probe_set.word_sentence, probe_set.word_position, strict=True):
        if not 0 <= sentence < sentences or not 1 <= position < len(probe_set.tokens[sentence]):
            raise BadProbeSet(
                f"probe set: a word at position {position} of sentence {sentence}, which is outside its tokens "
                f"(position 0 is the beginning-of-text token). {remedy}"
            )
    if set(probe_set.labels) != set(probe_set.classes):
        raise BadProbeSet(f"probe set: labels and classes name different tasks. {remedy}")
    for name, values in probe_set.labels.items():
        if len(values) != probe_set.words:
            raise BadProbeSet(f"probe set: {name} has {len(values)} labels for {probe_set.words} words. {remedy}")
        if any(not NO_LABEL <= value < len(probe_set.classes[name]) for value in values):
            raise BadProbeSet(f"probe set: {name} has a class index without a name. {remedy}")


def _candidates(
    documents: Sequence[str], sentences: int, seed: int, dropped: Counter[str]
) -> list[tuple[int, str, str, str]]:
    """(rank, hash, text, document) of distinct usable sentences; sorting them gives the order of choice."""
    low, high = WORDS_PER_SENTENCE
    ordered = sorted((_digest(seed, document), document) for document in set(documents))
    seen: set[str] = set()
    candidates: list[tuple[int, str, str, str]] = []
    for _, document in ordered:
        name = hashlib.sha256(document.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        own: list[tuple[int, str, str, str]] = []
        for text in split_sentences(document):
            words = [text[start:end] for start, end, labelled in find_words(text) if labelled]
            if not low <= len(words) <= high:
                dropped["sentences too short or too long"] += 1
                continue
            key = " ".join(WORD.findall(text.lower()))
            if key in seen:
                dropped["duplicate sentences"] += 1
                continue
            seen.add(key)
            rank = -min(2, sum(supersense(word) is not None for word in words))
            own.append((rank, _digest(seed, text), text, name))
        candidates += sorted(own)[:_PER_DOCUMENT]
        if len(candidates) >= _POOL * sentences:
            break
    return candidates


def _digest(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def _aligned(
    text: str, spans: Sequence[tuple[int, int]], dropped: Counter[str]
) -> Iterator[tuple[int, str, str | None]]:
    """(index of the last sub-token, word, word holding the next token or None) of every word that has a token of its own."""
    words = list(find_words(text))
    holders: list[list[int]] = [[] for _ in spans]  # per token, the words that it holds a character of
    first = 0
    for token, (start, end) in enumerate(spans):
        while first < len(words) and words[first][1] <= start:
            first += 1
        held = first
        while held < len(words) and words[held][0] < end and start < end:
            holders[token].append(held)
            held += 1
    last_token = {index: token for token, indices in enumerate(holders) for index in indices}
    for index, (start, end, labelled) in enumerate(words):
        if not labelled:
            continue
        if (last := last_token.get(index)) is None:
            dropped["words without a token"] += 1
            continue
        token_start, token_end = spans[last]
        outside = text[token_start : max(start, token_start)] + text[min(end, token_end) : token_end]
        if len(holders[last]) > 1 or any(character.isalnum() for character in outside):
            dropped["words sharing their last token"] += 1
            continue
        following = holders[last + 1] if last + 1 < len(spans) else []
        target = words[following[0]] if len(following) == 1 and words[following[0]][2] else None
        yield last, text[start:end], None if target is None else text[target[0] : target[1]]


def _same_family(label: str) -> Iterable[str]:
    """Current and next word share one list of class names, so that an index means the same in both."""
    return (other for other in LABELS if other.split(".")[0] == label.split(".")[0])


@cache
def _supersenses() -> dict[str, str]:
    path = Path(__file__).with_name("supersenses.tsv.gz")
    rows = (line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines())
    return {word: name for name, words in rows for word in words.split(" ")}

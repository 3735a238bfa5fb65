"""A sentence with its words and what a source says about each: what raw text, tagged text and gold files all become.

Only characters here; `alignment` brings words and tokens together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from probes.layers.probe_set import BadProbeSet
from probes.layers.text import find_words


@dataclass(frozen=True)
class Word:
    """Characters [start, end) of a sentence.

    Attributes:
        labels: class by family, from a gold file or a tagger; a family without an entry has no label here.
        labelled: False for what is no word of its own (a clitic that rules split off).
        lemma: dictionary form, where the source gives one; only used to look words up in norms.
    """

    start: int
    end: int
    labels: Mapping[str, str] = field(default_factory=dict)
    labelled: bool = True
    lemma: str | None = None


@dataclass(frozen=True)
class Sentence:
    """One sentence of a document.

    Attributes:
        document: sha256 of the document's text, 16 hex digits.
        topic: of the document, where there is one.
    """

    text: str
    document: str
    words: tuple[Word, ...]
    topic: str | None = None

    def form(self, word: Word) -> str:
        return self.text[word.start : word.end]


@dataclass(frozen=True)
class GoldText:
    """Sentences whose labels people made (or a generator that knows them).

    Attributes:
        name: where it is from, for `origin` and for messages: a file's name without its folder, and its sha256.
        families: that it labels; every other family is by rule or absent.
        dropped: what the reader left unlabelled, by reason.
    """

    name: str
    families: frozenset[str]
    sentences: tuple[Sentence, ...]
    dropped: Mapping[str, int] = field(default_factory=dict)

    @property
    def documents(self) -> tuple[str, ...]:
        """Hashes of its documents, each once, in order."""
        return tuple(dict.fromkeys(sentence.document for sentence in self.sentences))

    def only(self, documents: Collection[str]) -> GoldText:
        """The same source with these documents alone: one side of `splits.split`."""
        wanted = set(documents)
        return replace(self, sentences=tuple(one for one in self.sentences if one.document in wanted))


def document_name(text: str) -> str:
    """How a probe set names a document: the first 16 hex digits of its text's sha256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def plain(text: str, document: str, topic: str | None = None) -> Sentence:
    """A sentence of raw text, its words found by rule."""
    words = tuple(Word(start, end, labelled=labelled) for start, end, labelled in find_words(text))
    return Sentence(text, document, words, topic)


def checked(sentence: Sentence) -> Sentence:
    """The sentence, if its words lie inside its text, in order and apart.

    Raises:
        BadProbeSet: naming the word.
    """
    before = 0
    for number, word in enumerate(sentence.words, 1):
        if not before <= word.start < word.end <= len(sentence.text):
            raise BadProbeSet(
                f"sentence {sentence.text[:40]!r}: word {number} is at characters {word.start} to {word.end}, which overlaps "
                f"its neighbour or lies outside the {len(sentence.text)} characters of text. Give words in order, each once."
            )
        before = word.end
    return sentence


def labelled_forms(sentence: Sentence) -> Iterator[str]:
    """The words that count as such."""
    return (sentence.form(word) for word in sentence.words if word.labelled)
